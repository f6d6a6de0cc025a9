// Fields of planes by AVX-512 (docs/reference/bitstream.md, "Planes"): where each lane's code lies, and how it becomes
// a symbol. Only *_avx512.cpp include this.
//
// A code is never brought to one place. Each plane is shifted by whole 16-bit lanes, if at all, until the fields of all
// planes lie at different bits of the byte; one ternary operation then picks them, inverted. vpermb looks up by the low
// six bits, so tables are laid out for the places that the fields have, and repeated over the bits that are not of the
// code: for three bits a code a group of 64 takes 0.5 shifts instead of 1.6. Inverted, an escape is all zeros, which
// vptestnmb finds whatever the other bits are.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define TILEPRESS_INLINE inline __attribute__((always_inline))

namespace tilepress::avx512 {
namespace {

using Bytes = __m512i;

TILEPRESS_INLINE Bytes load(const uint8_t* p) { return _mm512_loadu_si512(p); }
TILEPRESS_INLINE void store(uint8_t* p, Bytes b) { _mm512_storeu_si512(p, b); }
TILEPRESS_INLINE Bytes splat(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }

// Where the fields of one group's codes lie in a byte: found in the planes, and after shifting. -1 where a width has no
// such plane.
struct Places {
    int from4, from2, from1;
    int to4, to2, to1;

    constexpr bool same_targets(const Places& other) const {
        return to4 == other.to4 && to2 == other.to2 && to1 == other.to1;
    }
    constexpr int mask4() const { return to4 < 0 ? 0 : 15 << to4; }
    constexpr int mask2() const { return to2 < 0 ? 0 : 3 << to2; }
    constexpr int mask1() const { return to1 < 0 ? 0 : 1 << to1; }
    constexpr int mask() const { return mask4() | mask2() | mask1(); }

    // The code that a byte holds, inverted.
    constexpr int code(int byte) const {
        int code = 0, bit = 0;
        if (to4 >= 0) code |= (byte >> to4 & 15), bit = 4;
        if (to2 >= 0) code |= (byte >> to2 & 3) << bit, bit += 2;
        if (to1 >= 0) code |= (byte >> to1 & 1) << bit, ++bit;
        return ~code & ((1 << bit) - 1);
    }
};

// The places of group `unit` of a fractal with the fewest shifts. Fields stay below bit 6, which vpermb looks at; seven
// bits a code stay at theirs.
constexpr Places places(int width, int unit) {
    Places best{-1, -1, -1, -1, -1, -1};
    if (width & 4) best.from4 = unit % 2 * 4;
    if (width & 2) best.from2 = unit % 4 * 2;
    if (width & 1) best.from1 = unit;
    if (width == 7) {
        best.to4 = 0, best.to2 = 4, best.to1 = 6;
        return best;
    }
    int fewest = 99;
    for (int to4 = width & 4 ? 0 : -1; to4 <= (width & 4 ? 2 : -1); ++to4) {
        for (int to2 = width & 2 ? 0 : -1; to2 <= (width & 2 ? 4 : -1); ++to2) {
            for (int to1 = width & 1 ? 0 : -1; to1 <= (width & 1 ? 5 : -1); ++to1) {
                Places trial = best;
                trial.to4 = to4, trial.to2 = to2, trial.to1 = to1;
                if ((trial.mask4() & trial.mask2()) | (trial.mask4() & trial.mask1()) | (trial.mask2() & trial.mask1()))
                    continue;
                // Groups that shift by the same amount share the shifted plane: by four bits where it can be chosen.
                int shifts = 0;
                const int moves[3] = {to4 - trial.from4, to2 - trial.from2, to1 - trial.from1};
                for (const int move : moves) shifts += move == 0 ? 0 : move == 4 || move == -4 ? 4 : 5;
                if (shifts < fewest) {
                    fewest = shifts;
                    best.to4 = to4, best.to2 = to2, best.to1 = to1;
                }
            }
        }
    }
    return best;
}

template <int From, int To>
TILEPRESS_INLINE Bytes moved(Bytes plane) {
    if constexpr (From > To) return _mm512_srli_epi16(plane, From - To);
    if constexpr (From < To) return _mm512_slli_epi16(plane, To - From);
    return plane;
}

// Bits of `mask` from a, the others from b, all inverted.
TILEPRESS_INLINE Bytes select_inverted(Bytes mask, Bytes a, Bytes b) {
    return _mm512_ternarylogic_epi64(a, b, mask, 0x1b);
}
TILEPRESS_INLINE Bytes select(Bytes mask, Bytes a, Bytes b) { return _mm512_ternarylogic_epi64(a, b, mask, 0xe4); }
TILEPRESS_INLINE Bytes invert(Bytes a) { return _mm512_ternarylogic_epi64(a, a, a, 0x0f); }

// Planes, in the order of a block, to one byte a lane that holds the inverted code at P's places.
template <Places P>
TILEPRESS_INLINE Bytes gathered(Bytes plane4, Bytes plane2, Bytes plane1) {
    if constexpr (P.to4 >= 0) plane4 = moved<P.from4, P.to4>(plane4);
    if constexpr (P.to2 >= 0) plane2 = moved<P.from2, P.to2>(plane2);
    if constexpr (P.to1 >= 0) plane1 = moved<P.from1, P.to1>(plane1);
    constexpr bool k4 = P.to4 >= 0, k2 = P.to2 >= 0, k1 = P.to1 >= 0;
    if constexpr (k4 && k2 && k1) {
        return select_inverted(splat(P.mask1()), plane1, select(splat(P.mask4()), plane4, plane2));
    } else if constexpr (k4 && k2) {
        return select_inverted(splat(P.mask4()), plane4, plane2);
    } else if constexpr (k4 && k1) {
        return select_inverted(splat(P.mask4()), plane4, plane1);
    } else if constexpr (k2 && k1) {
        return select_inverted(splat(P.mask2()), plane2, plane1);
    } else {
        return invert(k4 ? plane4 : k2 ? plane2 : plane1);
    }
}

}  // namespace
}  // namespace tilepress::avx512
