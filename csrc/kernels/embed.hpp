// Rows of a compressed matrix, as the lookup of tokens in an embedding table needs them.
#pragma once

#include <cstdint>

#include "tiles/tensor_view.hpp"

namespace tilepress {

// out[t, k] = float(row ids[t] of the matrix [n, k]) * scales[ids[t]] for `count` ids. Of each tile concerned only the
// strip of 16 rows that holds the wanted one is decoded, and of its later levels all. Throws std::out_of_range for an
// id that is no row, before anything is decoded, and BitstreamError with the number of the first damaged tile; what out
// then holds has no meaning.
void embed(const TensorView& table, const int64_t* ids, int64_t count, const float* scales, float* out, int threads);

}  // namespace tilepress
