// What a decoder does between its products, in vectors of 8 floats: every target gives the same bits.
#pragma once

#include <cmath>

#include "kernels/floats-inl.hpp"
#include "simd/kernels.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

float sum_of_squares(const float* x, int64_t size) {
    Floats sums[4] = {};
    int64_t c = 0;
    for (; c + 4 * kFloats <= size; c += 4 * kFloats) {
        for (int v = 0; v < 4; ++v) {
            const Floats value = load_floats(x + c + v * kFloats);
            sums[v] += value * value;
        }
    }
    float total = sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; c < size; ++c) total += x[c] * x[c];
    return total;
}

void normalize(const Norm& norm, const float* x, int64_t size, float* y) {
    const float mean = sum_of_squares(x, size) / static_cast<float>(size);
    const float factor = 1.0f / std::sqrt(mean + norm.epsilon);
    for (int64_t c = 0; c < size; ++c) y[c] = x[c] * factor * norm.gain[c];
    if (norm.bias == nullptr) return;
    for (int64_t c = 0; c < size; ++c) y[c] += norm.bias[c];
}

// 1 / (1 + e^-x); for negative x as e^x / (1 + e^x), since exp_floats takes no positive numbers.
TILEPRESS_ALWAYS_INLINE Floats sigmoid(Floats x) {
    const Floats power = exp_floats(x > 0.0f ? -x : x), one = Floats{} + 1.0f;
    return (x > 0.0f ? one : power) / (one + power);
}

void gate(const float* gates, const float* ups, int64_t size, float* y) {
    int64_t c = 0;
    for (; c + kFloats <= size; c += kFloats) {
        const Floats value = load_floats(gates + c);
        store_floats(value * sigmoid(value) * load_floats(ups + c), y + c);
    }
    for (; c < size; ++c) {
        const Floats value = Floats{} + gates[c];
        y[c] = (value * sigmoid(value))[0] * ups[c];
    }
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
