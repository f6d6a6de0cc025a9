// int8 matrix to the entropy-coded form. Bytes depend on the matrix alone, never on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

namespace tilepress {

struct EntropyBytes {
    int64_t block_rows;
    std::vector<uint8_t> weight, index;
};

// For matrix[n, k], n and k at least 1.
EntropyBytes encode_entropy(const int8_t* matrix, int64_t n, int64_t k, int threads);

}  // namespace tilepress
