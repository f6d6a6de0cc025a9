// int8 matrix to the entropy-coded form. Bytes depend on the matrix alone, never on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

namespace tilepress {

// Parts of `weight`, to be put one after the other.
struct EntropyParts {
    int64_t block_rows;
    std::vector<uint8_t> head;
    std::vector<std::vector<uint8_t>> blocks;
};

// For matrix[n, k], n and k at least 1.
EntropyParts encode_entropy(const int8_t* matrix, int64_t n, int64_t k, int threads);

}  // namespace tilepress
