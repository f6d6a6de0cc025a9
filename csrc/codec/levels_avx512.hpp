// Decoding the codes of one level by AVX-512: all of it for a level behind the first, group by group for the first.
#pragma once

#include <array>

#include "simd/kernels.hpp"
#include "simd/simd_avx512.hpp"

namespace tilepress::avx512 {
namespace {

// A level's symbols by code. The entry of an escape means nothing.
struct Level {
    alignas(64) uint8_t table[128];
};

// For each byte that vpermb may look up by, the code that it stands for at P's places.
template <Places P>
struct Permutation {
    alignas(64) std::array<uint8_t, 64> code{};
    constexpr Permutation() {
        for (int byte = 0; byte < 64; ++byte) code[byte] = static_cast<uint8_t>(P.code(byte));
    }
};
template <Places P>
constexpr Permutation<P> kPermutation;

// Codes of a level of `Width` bits to symbols. Places differ between groups of a fractal; groups with the same ones
// share a table.
template <int Width, bool Escapes>
struct Symbols {
    static constexpr int kTables = Width == 7 ? 2 : 8;
    Bytes table[kTables];

    static constexpr int table_of(int unit) {
        int first = 0;
        while (!places(Width, first).same_targets(places(Width, unit))) ++first;
        return first;
    }

    TILEPRESS_INLINE explicit Symbols(const Level& level) {
        if constexpr (Width == 7) {
            // An inverted code c is 127 - c: both halves backwards.
            const Bytes backwards = _mm512_load_si512(kPermutation<places(6, 2)>.code.data());
            table[0] = _mm512_permutexvar_epi8(backwards, load(level.table + 64));
            table[1] = _mm512_permutexvar_epi8(backwards, load(level.table));
        } else {
            fill<0>(load(level.table));
        }
    }

    template <int Unit>
    TILEPRESS_INLINE void fill(Bytes entries) {
        if constexpr (Unit < 8) {
            if constexpr (table_of(Unit) == Unit) {
                constexpr Places kPlaces = places(Width, Unit);
                table[Unit] = _mm512_permutexvar_epi8(_mm512_load_si512(kPermutation<kPlaces>.code.data()), entries);
            }
            fill<Unit + 1>(entries);
        }
    }

    // The symbols of one group. `inverted` holds its codes at the places of `Unit`; of the lanes in `valid`, those that
    // escape take the bytes at `next`, one after the other, and move it past them. 64 bytes at `next` are read.
    template <int Unit>
    TILEPRESS_INLINE Bytes of(Bytes inverted, const uint8_t*& next, __mmask64 valid = ~__mmask64{0}) const {
        constexpr Places kPlaces = places(Width, Unit);
        Bytes symbols;
        if constexpr (Width == 7) {
            symbols = _mm512_permutex2var_epi8(table[0], inverted, table[1]);
        } else {
            symbols = _mm512_permutexvar_epi8(inverted, table[table_of(Unit)]);
        }
        if constexpr (Escapes) {
            const __mmask64 escapes = _mm512_testn_epi8_mask(inverted, splat(kPlaces.mask())) & valid;
            symbols = _mm512_mask_expand_epi8(symbols, escapes, load(next));
            next += __builtin_popcountll(escapes);
        }
        return symbols;
    }
};

// Compilers would rather load a plane again for each group than copy the register, and loads are what is short.
TILEPRESS_INLINE Bytes in_register(Bytes plane) {
    asm("" : "+v"(plane));
    return plane;
}

// The planes of one fractal of level 0.
template <int Width>
struct Fractal {
    Bytes four[4], two[2], one;

    TILEPRESS_INLINE explicit Fractal(const uint8_t* codes) {
        constexpr int kAfter4 = Width & 4 ? 256 : 0, kAfter2 = kAfter4 + (Width & 2 ? 128 : 0);
        if constexpr (Width & 4) {
            for (int v = 0; v < 4; ++v) four[v] = in_register(load(codes + 64 * v));
        }
        if constexpr (Width & 2) {
            for (int v = 0; v < 2; ++v) two[v] = in_register(load(codes + kAfter4 + 64 * v));
        }
        if constexpr (Width & 1) one = in_register(load(codes + kAfter2));
    }

    template <int Unit>
    TILEPRESS_INLINE Bytes inverted() const {
        return gathered<places(Width, Unit)>(four[Unit / 2], two[Unit / 4], one);
    }
};

// For vpmultishiftqb: lanes 16 i to 16 i + 15 take the field `i` steps of `Bits` bits behind bit From of the same 16
// bytes, so that it comes to lie at bit To. Of 4 bits a byte has two fields only.
template <int Bits, int From, int To>
struct FieldControl {
    alignas(64) std::array<uint8_t, 64> bit{};
    constexpr FieldControl() {
        for (int lane = 0; lane < 64; ++lane) {
            const int field = Bits == 4 ? lane / 16 % 2 : lane / 16;
            bit[lane] = static_cast<uint8_t>((lane % 8 * 8 + From + Bits * field - To) & 63);
        }
    }
    TILEPRESS_INLINE Bytes of(Bytes bytes) const {
        return _mm512_multishift_epi64_epi8(_mm512_load_si512(bit.data()), bytes);
    }
};
template <int Bits, int From, int To>
constexpr FieldControl<Bits, From, To> kFields;

TILEPRESS_INLINE Bytes four_times(const uint8_t* p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
TILEPRESS_INLINE Bytes both_twice(const uint8_t* p) {
    const Bytes bytes = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_shuffle_i64x2(bytes, bytes, 0x50);
}

// Codes 64 * Half to 64 * Half + 63 of a block of 128, inverted, at the places of a fractal's unit 0.
template <int Width, int Half>
TILEPRESS_INLINE Bytes inverted_half(const uint8_t* block) {
    constexpr Places kTo = places(Width, 0);
    constexpr int kAfter4 = Width & 4 ? 64 : 0, kAfter2 = kAfter4 + (Width & 2 ? 32 : 0);
    Bytes plane4{}, plane2{}, plane1{};
    if constexpr (Width & 4) plane4 = kFields<4, 0, kTo.to4>.of(both_twice(block + 32 * Half));
    if constexpr (Width & 2) plane2 = kFields<2, 0, kTo.to2>.of(four_times(block + kAfter4 + 16 * Half));
    if constexpr (Width & 1) plane1 = kFields<1, 4 * Half, kTo.to1>.of(four_times(block + kAfter2));
    return gathered<Places{kTo.to4, kTo.to2, kTo.to1, kTo.to4, kTo.to2, kTo.to1}>(plane4, plane2, plane1);
}

// Decodes `count` codes of a level behind the first, 64 at a time. Returns where the next level's symbols not yet taken
// begin.
template <int Width, bool Escapes>
const uint8_t* decode_level(const uint8_t* codes, int count, const Level& level, const uint8_t* next, uint8_t* out) {
    const Symbols<Width, Escapes> symbols(level);
    for (; count > 64; count -= 128, codes += 16 * Width, out += 128) {
        store(out, symbols.template of<0>(inverted_half<Width, 0>(codes), next));
        const __mmask64 valid = count >= 128 ? ~__mmask64{0} : (__mmask64{1} << (count - 64)) - 1;
        store(out + 64, symbols.template of<0>(inverted_half<Width, 1>(codes), next, valid));
    }
    if (count > 0) {
        const __mmask64 valid = ~__mmask64{0} >> (64 - count);
        store(out, symbols.template of<0>(inverted_half<Width, 0>(codes), next, valid));
    }
    return next;
}

}  // namespace
}  // namespace tilepress::avx512
