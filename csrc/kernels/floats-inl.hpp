// Vectors of 8 floats, whatever the including file's target has, without contraction: every target gives the same bits.
#pragma once

#include <cstdint>
#include <cstring>
#ifdef __F16C__
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "simd/float16.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

constexpr int kFloats = 8;
typedef float Floats __attribute__((vector_size(4 * kFloats)));
typedef uint32_t FloatBits __attribute__((vector_size(4 * kFloats)));

TILEPRESS_ALWAYS_INLINE Floats load_floats(const float* from) {
    Floats value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
TILEPRESS_ALWAYS_INLINE void store_floats(Floats value, float* to) { std::memcpy(to, &value, sizeof value); }

TILEPRESS_ALWAYS_INLINE float sum_of(Floats v) {
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

// sum_of each of four, to four floats.
TILEPRESS_ALWAYS_INLINE void store_sums(const Floats (&v)[4], float* to) {
    const Floats first = __builtin_shufflevector(v[0], v[1], 0, 1, 2, 3, 8, 9, 10, 11) +
                         __builtin_shufflevector(v[0], v[1], 4, 5, 6, 7, 12, 13, 14, 15);
    const Floats last = __builtin_shufflevector(v[2], v[3], 0, 1, 2, 3, 8, 9, 10, 11) +
                        __builtin_shufflevector(v[2], v[3], 4, 5, 6, 7, 12, 13, 14, 15);
    // Two of vector 0, two of 2, two of 1, two of 3.
    const Floats pairs = __builtin_shufflevector(first, last, 0, 1, 8, 9, 4, 5, 12, 13) +
                         __builtin_shufflevector(first, last, 2, 3, 10, 11, 6, 7, 14, 15);
    typedef float FourFloats __attribute__((vector_size(16)));
    const FourFloats sums =
        __builtin_shufflevector(pairs, pairs, 0, 4, 2, 6) + __builtin_shufflevector(pairs, pairs, 1, 5, 3, 7);
    std::memcpy(to, &sums, sizeof sums);
}

// e^x for x from minus infinity to 0, to 2 units in the last place; below -86 as for -86; not-a-number stays that.
TILEPRESS_ALWAYS_INLINE Floats exp_floats(Floats exponents) {
    Floats x = exponents > -86.0f ? exponents : Floats{} - 86.0f;
    // x = power * ln 2 + rest; adding 1.5 * 2^23 rounds, and leaves the integer in the lowest bits.
    const Floats rounded = x * 1.44269504f + 12582912.0f, power = rounded - 12582912.0f;
    const Floats rest = (x - power * 0.693359375f) + power * 2.12194440e-4f;
    Floats y = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * rest + 8.3334519073e-3f;
    y = y * rest + 4.1665795894e-2f;
    y = y * rest + 1.6666665459e-1f;
    y = y * rest + 5.0000001201e-1f;
    y = y * (rest * rest) + rest + 1.0f;
    y = reinterpret_cast<Floats>(reinterpret_cast<FloatBits>(y) + (reinterpret_cast<FloatBits>(rounded) << 23));
    return exponents == exponents ? y : exponents;
}

// Eight numbers of 16 bits as floats.
typedef uint16_t HalfBits __attribute__((vector_size(2 * kFloats)));

TILEPRESS_ALWAYS_INLINE Floats load_floats(const BFloat16* from) {
    HalfBits bits;
    std::memcpy(&bits, from, sizeof bits);
    return reinterpret_cast<Floats>(__builtin_convertvector(bits, FloatBits) << 16);
}

TILEPRESS_ALWAYS_INLINE Floats load_floats(const Float16* from) {
#ifdef __F16C__
    return reinterpret_cast<Floats>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__aarch64__)
    const float16x8_t halves = vreinterpretq_f16_u16(vld1q_u16(reinterpret_cast<const uint16_t*>(from)));
    const float32x4_t parts[2] = {vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
    Floats value;
    std::memcpy(&value, parts, sizeof value);
    return value;
#else
    Floats value;
    for (int i = 0; i < kFloats; ++i) value[i] = widen(from[i]);
    return value;
#endif
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
