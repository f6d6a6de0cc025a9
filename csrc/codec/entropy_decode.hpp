// The entropy-coded form back to a plain matrix.
#pragma once

#include <cstdint>

#include "codec/entropy_format.hpp"

namespace tilepress {

// Fills matrix[n, k] on up to `threads` threads. Throws BitstreamError with the number of the first damaged block; what
// the matrix then holds has no meaning.
void decode_entropy(const EntropyTensor& tensor, int threads, int8_t* matrix);

}  // namespace tilepress
