// What the encoder of the entropy-coded form chooses: scales of rows and columns, classes and their frequencies. In
// integers alone, so that every processor chooses the same.
#pragma once

#include <cstdint>
#include <vector>

#include "codec/entropy_format.hpp"

namespace tilepress {

struct EntropyModel {
    EntropyHead head;
    std::vector<int32_t> rows;  // the scales of the rows
};

// For matrix[n, k]. The choice depends on the matrix alone, never on the number of threads.
EntropyModel choose_entropy_model(const int8_t* matrix, int64_t n, int64_t k, int threads);

}  // namespace tilepress
