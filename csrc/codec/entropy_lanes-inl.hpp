// The lanes of the entropy-coded form for any processor: what entropy_block-inl.hpp is written in.
#pragma once

#include <algorithm>

#include "codec/entropy_format.hpp"
#include "simd/kernels.hpp"
#include "tiles/little_endian.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

struct Lanes {
    const uint32_t* slots;
    int32_t top;
    int count = 0;
    uint32_t states[kEntropyLanes];
    int32_t rows[kEntropyLanes] = {};

    explicit Lanes(const EntropyBlock& block) : slots(block.slots), top(block.top) {
        for (int lane = 0; lane < kEntropyLanes; ++lane) {
            const uint8_t* const state = block.states + 4 * lane;
            states[lane] = static_cast<uint32_t>(load_u16(state)) | static_cast<uint32_t>(load_u16(state + 2)) << 16;
        }
    }

    void begin(const int32_t* scales, int lanes) {
        count = lanes;
        std::copy_n(scales, lanes, rows);
    }

    template <bool kWhole>
    TILEPRESS_INLINE void step(int32_t column, const uint8_t*& words, uint8_t* symbols) {
        const int lanes = kWhole ? kEntropyLanes : count;
        const uint8_t* next = words;
        for (int lane = 0; lane < lanes; ++lane) {
            const uint32_t level = static_cast<uint32_t>(std::clamp(rows[lane] + column, 0, top));
            const uint32_t state = states[lane];
            const uint32_t entry = slots[(level & -kTotal) | (state & (kTotal - 1))];
            const uint32_t left = (entry >> 20) * (state >> kTotalBits) + (entry >> 8 & 0xfff);
            // Without a branch: one in four takes a word, and nothing tells which.
            const uint32_t low = left < kLowestState;
            states[lane] = left << (16 * low) | (load_u16(next) & -low);
            next += 2 * low;
            symbols[lane] = static_cast<uint8_t>(entry);
        }
        if (!kWhole) std::fill(symbols + lanes, symbols + kEntropyLanes, uint8_t{0});
        words = next;
    }

    bool ended() const {
        return std::all_of(states, states + kEntropyLanes, [](uint32_t state) { return state == kLowestState; });
    }
};

uint64_t escapes_among(const uint8_t* symbols) {
    constexpr uint64_t kOnes = 0x0101010101010101, kLow = 0x7f * kOnes;
    uint64_t found = 0;
    for (int eight = 0; eight < 8; ++eight) {
        // The high bit of each byte that is 0x80: set itself, no other bit set.
        const uint64_t bytes = load_u64(symbols + 8 * eight);
        const uint64_t high = bytes & ~((bytes & kLow) + kLow) & ~kLow;
        // Bits 7, 15, ... 63 to 56 ... 63.
        found |= ((high >> 7) * 0x0102040810204080 >> 56) << (8 * eight);
    }
    return found;
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
