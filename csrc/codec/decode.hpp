// A compressed tensor back to a plain matrix.
#pragma once

#include <cstdint>

#include "tiles/tensor_view.hpp"

namespace tilepress {

// Fills matrix[n, k] on up to `threads` threads. Throws BitstreamError with the number of the first damaged tile; what
// the matrix then holds has no meaning.
void decode(const TensorView& tensor, int threads, int8_t* matrix);

}  // namespace tilepress
