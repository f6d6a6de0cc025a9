// The vector operations that decode-inl.hpp and multiply-inl.hpp are written in, for 64-bit Arm with dot products
// (FEAT_DotProd).
#pragma once

#include <arm_neon.h>

#include <cstdint>

#define TILEPRESS_INLINE inline __attribute__((always_inline))

namespace tilepress::TILEPRESS_TARGET {
namespace {

constexpr int kLanes = 16;

// Has C's operators, lane by lane.
using Bytes = uint8x16_t;

TILEPRESS_INLINE Bytes load(const uint8_t* p) { return vld1q_u8(p); }
TILEPRESS_INLINE void store(uint8_t* p, Bytes b) { vst1q_u8(p, b); }
TILEPRESS_INLINE Bytes splat(uint8_t value) { return vdupq_n_u8(value); }
TILEPRESS_INLINE Bytes equal(Bytes a, Bytes b) { return vceqq_u8(a, b); }

// Bits [From, From + Width) of each byte, moved to bit To.
template <int From, int Width, int To>
TILEPRESS_INLINE Bytes field(Bytes b) {
    if constexpr (From > To) b = vshrq_n_u8(b, From - To);
    if constexpr (From < To) b = vshlq_n_u8(b, To - From);
    return b & splat(((1 << Width) - 1) << To);
}

// As many successive fields as there are vectors of 16 lanes in a register here: one.
template <int From, int Width, int To>
TILEPRESS_INLINE Bytes field16(const uint8_t* p) {
    return field<From, Width, To>(load(p));
}

// A table of 2^Width bytes, held in registers.
template <int Width>
struct Table {
    static constexpr int kParts = Width <= 4 ? 1 : 1 << (Width - 4);
    Bytes part[kParts];

    TILEPRESS_INLINE explicit Table(const uint8_t* entries) {
        for (int i = 0; i < kParts; ++i) part[i] = load(entries + 16 * i);
    }

    // tbl gives 0 for an index past its registers, tbx leaves what was there.
    TILEPRESS_INLINE Bytes operator[](Bytes codes) const {
        if constexpr (kParts == 1) return vqtbl1q_u8(part[0], codes);
        if constexpr (kParts == 2) return vqtbl2q_u8({{part[0], part[1]}}, codes);
        if constexpr (kParts >= 4) {
            const Bytes found = vqtbl4q_u8({{part[0], part[1], part[2], part[3]}}, codes);
            if constexpr (kParts == 4) return found;
            if constexpr (kParts == 8) {
                return vqtbx4q_u8(found, {{part[4], part[5], part[6], part[7]}}, codes - splat(64));
            }
        }
    }
};

// `symbols`, but the lanes that are set in `mask` take the bytes at `next`, one after the other. Moves `next` past
// them; up to 16 bytes from where it then is are read. The place of a lane's byte is the number of lanes set before it,
// which a multiplication counts within four lanes and two shuffles carry on from there.
TILEPRESS_INLINE Bytes take(Bytes symbols, Bytes mask, const uint8_t*& next) {
    constexpr uint8_t kNone = 0xff;
    constexpr Bytes kCarry4 = {kNone, kNone, kNone, kNone, 3, 3, 3, 3, kNone, kNone, kNone, kNone, 11, 11, 11, 11};
    constexpr Bytes kCarry8 = {kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, 7, 7, 7, 7, 7, 7, 7, 7};
    // Four lanes are a number 255 s, where byte i of s is 1 where lane i is set; 0x01010101 s counts them. Modulo 2^32,
    // 0xfbfcfdff is 0x01010101 / 255.
    Bytes count = vreinterpretq_u8_u32(vmulq_n_u32(vreinterpretq_u32_u8(mask), 0xfbfcfdff));
    count += vqtbl1q_u8(count, kCarry4);
    count += vqtbl1q_u8(count, kCarry8);
    const Bytes taken = vqtbl1q_u8(load(next), count + mask);  // less the lane itself
    next += vgetq_lane_u8(count, 15);
    return vbslq_u8(mask, taken, symbols);
}

// Sums of four rows.
using Sums = int32x4_t;

TILEPRESS_INLINE Sums splat_sums(int32_t value) { return vdupq_n_s32(value); }
TILEPRESS_INLINE void add_to(int32_t* p, Sums sums) { vst1q_s32(p, vaddq_s32(vld1q_s32(p), sums)); }

// Products by sdot: exact for all symbols and values, modulo 2^32. It takes a group's four values from a lane of their
// register, so two groups need one load a token.
struct Dot {
    static constexpr int kLowest = 0;  // both operands are signed: symbols are the weights themselves
    static constexpr int kGroups = 2;
    static constexpr int kChains = 2;  // latency is 3 to 4 cycles, at two to four a cycle
    struct Weights {
        int8x16_t v[kGroups];
    };
    using Values = int8x8_t;

    static TILEPRESS_INLINE Weights weights(const uint8_t* symbols) {
        return {{vreinterpretq_s8_u8(load(symbols)), vreinterpretq_s8_u8(load(symbols + 64))}};
    }
    static TILEPRESS_INLINE Values values(const int8_t* x) { return vld1_s8(x); }
    static TILEPRESS_INLINE Sums add(Sums sums, const Weights& w, Values x) {
        return vdotq_lane_s32(vdotq_lane_s32(sums, w.v[0], x, 0), w.v[1], x, 1);
    }
};

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
