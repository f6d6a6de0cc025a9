// y = linear(x, compressed weight), with activations quantized on the way in.
#pragma once

#include <cstdint>

#include "tensor_view.hpp"

namespace tilepress {

enum class FloatType { float32, bfloat16, float16 };

struct LinearArguments {
    const void* x;   // [tokens, k]
    void* y;         // [tokens, n]
    FloatType type;  // of x and y
    int64_t tokens;
    float input_scale;
    int input_offset;           // -128 to 127
    const float* deq_scale;     // [n]
    const int32_t* quant_bias;  // [n]
};

// xq = clamp(round_half_even(x / input_scale) + input_offset, -128, 127), not-a-number to -128;
// y = (xq @ W^T + quant_bias, modulo 2^32) * deq_scale, rounded to nearest even. The same bits for any number of
// threads, any tokens beside and any instruction set. Throws BitstreamError with the number of the first damaged tile;
// y then has no meaning.
void linear(const TensorView& weight, const LinearArguments& arguments, int threads);

}  // namespace tilepress
