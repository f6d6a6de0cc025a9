// y = linear(x, compressed weight), with activations quantized on the way in.
#pragma once

#include <cstdint>

#include "simd/float_type.hpp"
#include "tiles/tensor_view.hpp"

namespace tilepress {

// An input_offset that gives every token a symmetric scale of its own.
inline constexpr int kSymmetric = 128;

struct LinearArguments {
    const void* x;  // [tokens, k]
    void* y;        // [tokens, n]: token t's outputs begin at y + t * y_stride
    int64_t y_stride;
    FloatType type;  // of x and y
    int64_t tokens;
    float input_scale;
    int input_offset;           // -128 to 127, or kSymmetric
    const float* deq_scale;     // [n]
    const int32_t* quant_bias;  // [n]
    // [n], the sum of each row of W. Given these, a token that overflows the static range is not clamped. Null to
    // clamp.
    const int32_t* weight_sums;
};

// xq = clamp(round_half_even(x / input_scale) + input_offset, -128, 127), not-a-number to -128;
// y = (xq @ W^T + quant_bias, modulo 2^32) * deq_scale, rounded to nearest even.
//
// A token overflows where, without the clamp, the least or the greatest of its activations and 0 would be outside
// -128 ... 127. Given weight_sums, it is then quantized by a dynamic scale and offset, if that scale is normal:
//
//     scale = (greatest - least) / 255, offset = -128 - round_half_even(least / scale)
//     y = (float(xq @ W^T - offset * weight_sums) * (scale / input_scale)
//          + float(quant_bias + input_offset * weight_sums)) * deq_scale, in float32 without contraction
//
// With kSymmetric, which needs weight_sums, every token has the scale greatest(|x|) / 127, or 1 where that is no normal
// number, and the offset 0.
//
// The same bits for any number of threads, any tokens beside and any instruction set. Throws BitstreamError with the
// number of the first damaged tile; y then has no meaning.
void linear(const TensorView& weight, const LinearArguments& arguments, int threads);

// Throws std::invalid_argument for an input_offset that is none.
void check_input_offset(const LinearArguments& arguments);

}  // namespace tilepress
