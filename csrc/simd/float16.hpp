// Half precision in integer arithmetic: the same bits on every processor, and simple enough for compilers to vectorize.
// Always inlined: a copy compiled for one instruction set must not serve the others.
#pragma once

#include <bit>
#include <cstdint>

#define TILEPRESS_ALWAYS_INLINE inline __attribute__((always_inline))

namespace tilepress {

struct Float16 {
    uint16_t bits;
};

struct BFloat16 {
    uint16_t bits;
};

TILEPRESS_ALWAYS_INLINE float widen(float value) { return value; }

TILEPRESS_ALWAYS_INLINE float widen(BFloat16 value) {
    return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

TILEPRESS_ALWAYS_INLINE float widen(Float16 value) {
    const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
    const uint32_t shifted = static_cast<uint32_t>(value.bits & 0x7fff) << 13;
    const uint32_t normal = shifted + (112u << 23);  // exponent bias 15 to 127
    const uint32_t special = shifted | 0x7f800000;   // infinity, or not a number
    // A subnormal is its bits times 2^-24. Shifted, they add as much to `anchor`, 2^-14; the subtraction normalizes it.
    const float anchor = std::bit_cast<float>(113u << 23);
    const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(shifted + (113u << 23)) - anchor);
    const uint32_t magnitude = shifted >= 0x7c00u << 13 ? special : shifted < 0x0400u << 13 ? subnormal : normal;
    return std::bit_cast<float>(sign | magnitude);
}

// To nearest, ties to even.
TILEPRESS_ALWAYS_INLINE void narrow(float value, float& out) { out = value; }

TILEPRESS_ALWAYS_INLINE void narrow(float value, BFloat16& out) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    out.bits = static_cast<uint16_t>(nan ? (bits >> 16 | 0x40) : rounded);
}

TILEPRESS_ALWAYS_INLINE void narrow(float value, Float16& out) {
    const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffff;
    const uint32_t normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    const uint32_t special = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    // Below 2^-14 the last place is 2^-24, which is that of a float at 1/2: let the adder round.
    const uint32_t half = 126u << 23;
    const uint32_t subnormal =
        std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude < (113u << 23) ? magnitude : 0u) + 0.5f) - half;
    const uint32_t rounded = magnitude >= (143u << 23) ? special : magnitude < (113u << 23) ? subnormal : normal;
    out.bits = static_cast<uint16_t>((bits >> 16 & 0x8000) | rounded);
}

}  // namespace tilepress
