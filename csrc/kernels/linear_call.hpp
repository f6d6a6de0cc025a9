// One call of the operator as its callers hand it over, types and lengths already checked.
#pragma once

#include <cstdint>

#include "kernels/linear.hpp"

namespace tilepress {

struct LinearCall {
    const void* x;   // [tokens, k]
    void* y;         // [tokens, n]
    FloatType type;  // of x and y
    int64_t tokens, k, n;
    const void* weight;
    uint64_t weight_bytes;
    const void* index;
    uint64_t index_bytes;
    const int64_t* info;          // [5]
    const float* input_scale;     // [1]
    const int32_t* input_offset;  // [1]
    const float* deq_scale;       // [n]
    const int32_t* quant_bias;    // [n]
    const int32_t* weight_sums;   // [n], or null: tokens that overflow are clamped
};

// Throws std::invalid_argument where shapes or the offset do not fit, BitstreamError for damaged bytes.
void run(const LinearCall& call, int threads);

}  // namespace tilepress
