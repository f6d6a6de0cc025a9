// Products with a float matrix, in vectors of 8: every target gives the same bits, whatever other tokens are beside.
#pragma once

#include <cstring>

#include "kernels/floats-inl.hpp"
#include "simd/kernels.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// Columns taken at a time: four sums a token hide the latency of an addition.
constexpr int kColumns = 4 * kFloats;

template <int T, typename Float>
TILEPRESS_ALWAYS_INLINE void add_products(const Float* weight, const float* x, int64_t stride, Floats (*sums)[4]) {
    for (int v = 0; v < 4; ++v) {
        const Floats value = load_floats(weight + v * kFloats);
        for (int t = 0; t < T; ++t) sums[t][v] += value * load_floats(x + t * stride + v * kFloats);
    }
}

// One row against T tokens.
template <int T, typename Float>
TILEPRESS_ALWAYS_INLINE void multiply_row(const Float* weight, const float* x, int64_t k, float bias, float* y,
                                          int64_t stride) {
    Floats sums[T][4] = {};
    int64_t c = 0;
    for (; c + kColumns <= k; c += kColumns) add_products<T>(weight + c, x + c, k, sums);
    if (c < k) {
        const size_t left = static_cast<size_t>(k - c);
        Float last[kColumns] = {};
        float inputs[T][kColumns] = {};
        std::memcpy(last, weight + c, left * sizeof(Float));
        for (int t = 0; t < T; ++t) std::memcpy(inputs[t], x + t * k + c, left * sizeof(float));
        add_products<T>(last, inputs[0], kColumns, sums);
    }
    for (int t = 0; t < T; ++t) {
        y[t * stride] = sum_of((sums[t][0] + sums[t][1]) + (sums[t][2] + sums[t][3])) + bias;
    }
}

template <typename Float>
void multiply_rows(const FloatRows& rows, const Float* weight, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
        const Float* const of_row = weight + row * rows.k;
        const float bias = rows.bias == nullptr ? 0.0f : rows.bias[row];
        int64_t t = 0;
        for (; t + 4 <= rows.tokens; t += 4) {
            multiply_row<4>(of_row, rows.x + t * rows.k, rows.k, bias, rows.y + t * rows.stride + row, rows.stride);
        }
        for (; t < rows.tokens; ++t) {
            multiply_row<1>(of_row, rows.x + t * rows.k, rows.k, bias, rows.y + t * rows.stride + row, rows.stride);
        }
    }
}

void multiply_floats(const FloatRows& rows, int64_t first, int64_t last) {
    with_floats(rows.type, rows.weight, [&](const auto* weight) { multiply_rows(rows, weight, first, last); });
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
