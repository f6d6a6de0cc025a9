// From integer sums to outputs, in plain loops that the compiler vectorizes for the including file's target. No
// operation may be contracted or reordered: every target gives the same bits.
#pragma once

#include "simd/kernels.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

TILEPRESS_ALWAYS_INLINE int32_t wrapping_add(int32_t a, int32_t b) {
    return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}
TILEPRESS_ALWAYS_INLINE int32_t wrapping_multiply(int32_t a, int32_t b) {
    return static_cast<int32_t>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
}

// A token quantized by the static scale and offset.
template <typename Float>
TILEPRESS_ALWAYS_INLINE void scale_static(const int32_t* sums, const OutputScales& scales, int count, Float* out) {
    for (int r = 0; r < count; ++r) {
        narrow(static_cast<float>(wrapping_add(sums[r], scales.quant_bias[r])) * scales.deq_scale[r], out[r]);
    }
}

// A token quantized by its own scale, `ratio` times the static one, and its own offset: the bias, which quant_bias
// holds beside the static offset's share, keeps its scale.
template <typename Float>
TILEPRESS_ALWAYS_INLINE void scale_own(const int32_t* sums, const OutputScales& scales, const TokenScale& token,
                                       int count, Float* out) {
    for (int r = 0; r < count; ++r) {
        const int32_t weights = scales.weight_sums[r];
        const int32_t products = wrapping_add(sums[r], wrapping_multiply(-token.offset, weights));
        const int32_t bias = wrapping_add(scales.quant_bias[r], wrapping_multiply(scales.input_offset, weights));
        const float scaled = static_cast<float>(products) * token.ratio;
        narrow((scaled + static_cast<float>(bias)) * scales.deq_scale[r], out[r]);
    }
}

template <typename Float>
TILEPRESS_ALWAYS_INLINE void scale_tokens(const int32_t* sums, const OutputScales& scales, const TokenScale* tokens,
                                          int64_t count, int channels, Float* out, int64_t stride) {
    for (int64_t t = 0; t < count; ++t, sums += kFractalRows, out += stride) {
        if (tokens[t].own) {
            scale_own(sums, scales, tokens[t], channels, out);
        } else {
            scale_static(sums, scales, channels, out);
        }
    }
}

void scale_sums(const int32_t* sums, const OutputScales& scales, const TokenScale* tokens, int64_t count, int channels,
                FloatType type, void* y, int64_t first, int64_t stride) {
    with_floats(type, y, [&](auto* out) {
        if (channels == kFractalRows) {  // a constant, so that no loop is left of it
            scale_tokens(sums, scales, tokens, count, kFractalRows, out + first, stride);
        } else {
            scale_tokens(sums, scales, tokens, count, channels, out + first, stride);
        }
    });
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
