// Dot products by AVX2's vpmaddubsw, whose sums of two products saturate in 16 bits: the fewer bits the symbols and the
// values have, the more of them may be added up before they are widened.
#pragma once

#include "simd/simd_avx2.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// Products of Groups times four columns, added up in 16 bits first: exact while Groups * 2 * symbol * value <= 32767.
template <int Groups>
struct NarrowDot {
    static constexpr int kGroups = Groups;
    static constexpr int kChains = 1;
    struct Weights {
        __m256i v[Groups];
    };
    using Values = Weights;

    static TILEPRESS_INLINE Weights weights(const uint8_t* symbols) {
        Weights w;
        for (int g = 0; g < Groups; ++g) w.v[g] = load(symbols + 64 * g).v;
        return w;
    }
    static TILEPRESS_INLINE Values values(const int8_t* x) {
        Values four;
        for (int g = 0; g < Groups; ++g) four.v[g] = four_values(x + 4 * g);
        return four;
    }
    static TILEPRESS_INLINE Sums add(Sums sums, const Weights& w, const Values& x) {
        __m256i pairs = _mm256_maddubs_epi16(w.v[0], x.v[0]);
        for (int g = 1; g < Groups; ++g) pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w.v[g], x.v[g]));
        return {_mm256_add_epi32(sums.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
    }
};

// Exact for all symbols and values: the symbols' halves apart, each of which is below 16.
struct WideDot {
    static constexpr int kGroups = 4;
    static constexpr int kChains = 1;
    struct Weights {
        __m256i low[kGroups], high[kGroups];
    };
    struct Values {
        __m256i v[kGroups];
    };

    static TILEPRESS_INLINE Weights weights(const uint8_t* symbols) {
        Weights w;
        for (int g = 0; g < kGroups; ++g) {
            const Bytes both = load(symbols + 64 * g);
            w.low[g] = field<0, 4, 0>(both).v;
            w.high[g] = field<4, 4, 0>(both).v;
        }
        return w;
    }
    static TILEPRESS_INLINE Values values(const int8_t* x) {
        Values four;
        for (int g = 0; g < kGroups; ++g) four.v[g] = four_values(x + 4 * g);
        return four;
    }
    static TILEPRESS_INLINE Sums add(Sums sums, const Weights& w, const Values& x) {
        __m256i low = _mm256_maddubs_epi16(w.low[0], x.v[0]), high = _mm256_maddubs_epi16(w.high[0], x.v[0]);
        for (int g = 1; g < kGroups; ++g) {
            low = _mm256_add_epi16(low, _mm256_maddubs_epi16(w.low[g], x.v[g]));
            high = _mm256_add_epi16(high, _mm256_maddubs_epi16(w.high[g], x.v[g]));
        }
        const __m256i ones = _mm256_madd_epi16(low, _mm256_set1_epi16(1));
        const __m256i sixteens = _mm256_madd_epi16(high, _mm256_set1_epi16(16));
        return {_mm256_add_epi32(sums.v, _mm256_add_epi32(ones, sixteens))};
    }
};

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
