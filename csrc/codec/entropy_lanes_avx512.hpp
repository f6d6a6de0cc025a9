// The lanes of the entropy-coded form for AVX-512: what entropy_block-inl.hpp is written in.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "codec/entropy_format.hpp"
#include "simd/kernels.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

struct Lanes {
    const uint32_t* slots;
    __m512i top;
    __m512i states[2];
    __m512i rows[2] = {};
    __mmask16 active[2] = {};

    explicit Lanes(const EntropyBlock& block) : slots(block.slots), top(_mm512_set1_epi32(block.top)) {
        for (int half = 0; half < 2; ++half) states[half] = _mm512_loadu_si512(block.states + 64 * half);
    }

    void begin(const int32_t* scales, int lanes) {
        for (int half = 0; half < 2; ++half) {
            const int mine = std::clamp(lanes - 16 * half, 0, 16);
            active[half] = static_cast<__mmask16>((1 << mine) - 1);
            rows[half] =
                mine == 0 ? _mm512_setzero_si512() : _mm512_maskz_loadu_epi32(active[half], scales + 16 * half);
        }
    }

    template <bool kWhole>
    TILEPRESS_INLINE void step(int32_t column, const uint8_t*& words, uint8_t* symbols) {
        const __m512i place = _mm512_set1_epi32(kTotal - 1), scale = _mm512_set1_epi32(column);
        for (int half = 0; half < 2; ++half) {
            const __m512i state = states[half], sum = _mm512_add_epi32(rows[half], scale);
            const __m512i level = _mm512_min_epi32(_mm512_max_epi32(sum, _mm512_setzero_si512()), top);
            // Low bits of the state below high ones of the level.
            const __m512i slot = _mm512_ternarylogic_epi32(place, state, level, 0xca);
            const __m512i entry = _mm512_i32gather_epi32(slot, slots, 4);
            const __m512i product =
                _mm512_mullo_epi32(_mm512_srli_epi32(entry, 20), _mm512_srli_epi32(state, kTotalBits));
            const __m512i offset = _mm512_and_si512(_mm512_srli_epi32(entry, 8), _mm512_set1_epi32(0xfff));
            __m512i left = _mm512_add_epi32(product, offset);
            if constexpr (!kWhole) left = _mm512_mask_mov_epi32(state, active[half], left);
            __mmask16 low = _mm512_cmplt_epu32_mask(left, _mm512_set1_epi32(kLowestState));
            if constexpr (!kWhole) low &= active[half];
            const __m256i next = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
            const __m512i taken = _mm512_maskz_expand_epi32(low, _mm512_cvtepu16_epi32(next));
            states[half] = _mm512_mask_or_epi32(left, low, _mm512_slli_epi32(left, 16), taken);
            words += 2 * __builtin_popcount(low);
            __m128i values = _mm512_cvtepi32_epi8(entry);
            if constexpr (!kWhole) values = _mm512_maskz_cvtepi32_epi8(active[half], entry);
            _mm_store_si128(reinterpret_cast<__m128i*>(symbols + 16 * half), values);
        }
    }

    bool ended() const {
        const __m512i lowest = _mm512_set1_epi32(kLowestState);
        return (_mm512_cmpneq_epi32_mask(states[0], lowest) | _mm512_cmpneq_epi32_mask(states[1], lowest)) == 0;
    }
};

uint64_t escapes_among(const uint8_t* symbols) {
    return _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(symbols), _mm512_set1_epi8(static_cast<char>(kEscape)));
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
