// The lanes of the entropy-coded form for AVX2: what entropy_block-inl.hpp is written in.
#pragma once

#include <immintrin.h>

#include <array>

#include "codec/entropy_format.hpp"
#include "simd/kernels.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// For each set of eight lanes: which of the next words each takes, a byte a lane.
constexpr std::array<uint64_t, 256> kWordOfLane = [] {
    std::array<uint64_t, 256> table{};
    for (int set = 0; set < 256; ++set) {
        uint64_t before = 0;
        for (int lane = 0; lane < 8; ++lane) {
            table[static_cast<size_t>(set)] |= before << (8 * lane);
            before += static_cast<uint64_t>(set >> lane & 1);
        }
    }
    return table;
}();

struct Lanes {
    static constexpr int kVectors = kEntropyLanes / 8;

    const uint32_t* slots;
    __m256i top;
    __m256i states[kVectors];
    __m256i rows[kVectors] = {};
    __m256i active[kVectors] = {};

    explicit Lanes(const EntropyBlock& block) : slots(block.slots), top(_mm256_set1_epi32(block.top)) {
        for (int v = 0; v < kVectors; ++v) {
            states[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block.states + 32 * v));
        }
    }

    void begin(const int32_t* scales, int lanes) {
        const __m256i order = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        for (int v = 0; v < kVectors; ++v) {
            active[v] = _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes - 8 * v), order);
            rows[v] = lanes <= 8 * v ? _mm256_setzero_si256() : _mm256_maskload_epi32(scales + 8 * v, active[v]);
        }
    }

    template <bool kWhole>
    TILEPRESS_INLINE void step(int32_t column, const uint8_t*& words, uint8_t* symbols) {
        const __m256i place = _mm256_set1_epi32(kTotal - 1), scale = _mm256_set1_epi32(column);
        __m256i entries[kVectors];
        for (int v = 0; v < kVectors; ++v) {
            const __m256i state = states[v], sum = _mm256_add_epi32(rows[v], scale);
            const __m256i level = _mm256_min_epi32(_mm256_max_epi32(sum, _mm256_setzero_si256()), top);
            const __m256i slot = _mm256_or_si256(_mm256_andnot_si256(place, level), _mm256_and_si256(state, place));
            __m256i entry = _mm256_i32gather_epi32(reinterpret_cast<const int*>(slots), slot, 4);
            const __m256i product =
                _mm256_mullo_epi32(_mm256_srli_epi32(entry, 20), _mm256_srli_epi32(state, kTotalBits));
            const __m256i offset = _mm256_and_si256(_mm256_srli_epi32(entry, 8), _mm256_set1_epi32(0xfff));
            __m256i left = _mm256_add_epi32(product, offset);
            if constexpr (!kWhole) left = _mm256_blendv_epi8(state, left, active[v]);
            __m256i low = _mm256_cmpeq_epi32(_mm256_srli_epi32(left, 16), _mm256_setzero_si256());
            if constexpr (!kWhole) low = _mm256_and_si256(low, active[v]);
            const unsigned set = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(low)));
            const __m256i next = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words)));
            const __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kWordOfLane[set])));
            const __m256i taken = _mm256_permutevar8x32_epi32(next, order);
            const __m256i filled = _mm256_or_si256(_mm256_slli_epi32(left, 16), taken);
            states[v] = _mm256_blendv_epi8(left, filled, low);
            words += 2 * __builtin_popcount(set);
            if constexpr (!kWhole) entry = _mm256_and_si256(entry, active[v]);
            entries[v] = _mm256_and_si256(entry, _mm256_set1_epi32(0xff));
        }
        // Packing works in halves of registers: words of four lanes come out in the order 0 2 4 6 1 3 5 7.
        const __m256i pairs = _mm256_packus_epi16(_mm256_packus_epi32(entries[0], entries[1]),
                                                  _mm256_packus_epi32(entries[2], entries[3]));
        const __m256i ordered = _mm256_permutevar8x32_epi32(pairs, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(symbols), ordered);
    }

    bool ended() const {
        const __m256i lowest = _mm256_set1_epi32(kLowestState);
        __m256i same = _mm256_cmpeq_epi32(states[0], lowest);
        for (int v = 1; v < kVectors; ++v) same = _mm256_and_si256(same, _mm256_cmpeq_epi32(states[v], lowest));
        return _mm256_movemask_epi8(same) == -1;
    }
};

uint64_t escapes_among(const uint8_t* symbols) {
    const __m256i escape = _mm256_set1_epi8(static_cast<char>(kEscape));
    uint64_t found = 0;
    for (int half = 0; half < 2; ++half) {
        const __m256i part = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(symbols + 32 * half));
        const auto mask = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(part, escape)));
        found |= static_cast<uint64_t>(mask) << (32 * half);
    }
    return found;
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
