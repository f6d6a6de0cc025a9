// Dot products by vpdpbusd on 256 bits: exact for all symbols and values, modulo 2^32.
#pragma once

#include "simd/simd_avx2.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

struct Dot {
    static constexpr int kLowest = -128;  // vpdpbusd's first operand is unsigned
    static constexpr int kGroups = 1;
    static constexpr int kChains = 4;  // its latency is 4 to 5 cycles, at one or two a cycle
    using Weights = __m256i;
    using Values = __m256i;

    static TILEPRESS_INLINE Weights weights(const uint8_t* symbols) { return load(symbols).v; }
    static TILEPRESS_INLINE Values values(const int8_t* x) { return four_values(x); }
    static TILEPRESS_INLINE Sums add(Sums sums, Weights w, Values x) {
#ifdef __AVXVNNI__
        return {_mm256_dpbusd_avx_epi32(sums.v, w, x)};
#else
        return {_mm256_dpbusd_epi32(sums.v, w, x)};
#endif
    }
};

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
