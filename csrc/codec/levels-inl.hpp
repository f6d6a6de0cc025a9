// Decoding the codes of one level (docs/reference/bitstream.md, "Levels" and "Planes"), in the vector operations of the
// including file's target: all of it for a level behind the first, one strip for the first. Widths are compile-time
// constants.
#pragma once

#include "simd/kernels.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// The field of `kLanes` codes that one plane of `Width` bits holds, at bit To. Unit counts steps of 16 codes in blocks
// with V = 16, of kLanes codes in blocks with V = 64.
template <int Width, int V, int Unit, int To>
TILEPRESS_INLINE Bytes plane_field(const uint8_t* plane) {
    constexpr int kVectorSteps = V == 16 ? 1 : V / kLanes;
    constexpr int kVector = Unit / kVectorSteps, kPerByte = 8 / Width;
    constexpr int kFrom = kVector % kPerByte * Width;
    const uint8_t* const at = plane + kVector / kPerByte * V + Unit % kVectorSteps * kLanes;
    if constexpr (V == 16) {
        return field16<kFrom, Width, To>(at);
    } else {
        return field<kFrom, Width, To>(load(at));
    }
}

template <int Width, int V, int Unit>
TILEPRESS_INLINE Bytes codes_of(const uint8_t* block) {
    constexpr int kAfter4 = Width & 4 ? 4 * V : 0, kAfter2 = kAfter4 + (Width & 2 ? 2 * V : 0);
    Bytes codes;
    if constexpr (Width & 4) codes = plane_field<4, V, Unit, 0>(block);
    if constexpr (Width & 2) {
        const Bytes two = plane_field<2, V, Unit, Width & 4>(block + kAfter4);
        if constexpr (Width & 4) {
            codes = codes | two;
        } else {
            codes = two;
        }
    }
    if constexpr (Width & 1) {
        const Bytes one = plane_field<1, V, Unit, Width & 6>(block + kAfter2);
        if constexpr (Width > 1) {
            codes = codes | one;
        } else {
            codes = one;
        }
    }
    return codes;
}

// A level's table less `lowest`, 0 for the escape.
struct Level {
    alignas(64) uint8_t table[128];
};

// From codes of a level to symbols: by table, or by an addition where each value is one more than the one before. (Up
// to four bits the table costs no more than the addition.)
template <int Width, bool Escapes, bool Run>
struct Symbols {
    static constexpr int kEscape = (1 << Width) - 1;
    Table<Width> table;
    Bytes first;

    TILEPRESS_INLINE explicit Symbols(const Level& level) : table(level.table), first(splat(level.table[0])) {}

    TILEPRESS_INLINE Bytes operator()(Bytes codes, const uint8_t*& next) const {
        Bytes symbols = Run ? codes + first : table[codes];
        if constexpr (Escapes) {
            symbols = take(symbols, equal(codes, splat(kEscape)), next);
        }
        return symbols;
    }
};

// The codes of a block of 128 from `Unit` on.
template <int Width, bool Escapes, bool Partial, int Unit = 0>
TILEPRESS_INLINE void decode_block(const uint8_t* block, const uint8_t* keep,
                                   const Symbols<Width, Escapes, false>& symbols, const uint8_t*& next, uint8_t* out) {
    if constexpr (Unit < 8) {
        Bytes codes = codes_of<Width, 16, Unit>(block);
        if constexpr (Partial) codes = codes & load(keep + 16 * Unit);
        store(out + 16 * Unit, symbols(codes, next));
        decode_block<Width, Escapes, Partial, Unit + kLanes / 16>(block, keep, symbols, next, out);
    }
}

// 128 bytes of ones and 128 of zeros. The codes behind a level's count must be 0, which no escape is; they are made so.
struct Keep {
    uint8_t bytes[256] = {};
    constexpr Keep() {
        for (int i = 0; i < 128; ++i) bytes[i] = 0xff;
    }
};
constexpr Keep kKeep;

// Decodes `count` codes of a level behind the first, in whole blocks. Returns where the next level's symbols not yet
// taken begin.
template <int Width, bool Escapes>
const uint8_t* decode_level(const uint8_t* codes, int count, const Level& level, const uint8_t* next, uint8_t* out) {
    const Symbols<Width, Escapes, false> symbols(level);
    for (; count >= 128; count -= 128, codes += 16 * Width, out += 128) {
        decode_block<Width, Escapes, false>(codes, nullptr, symbols, next, out);
    }
    if (count > 0) decode_block<Width, Escapes, true>(codes, kKeep.bytes + 128 - count, symbols, next, out);
    return next;
}

// The symbols of a fractal from `Unit` on.
template <int Width, bool Escapes, bool Run, int Unit = 0>
TILEPRESS_INLINE void decode_fractal(const uint8_t* codes, const Symbols<Width, Escapes, Run>& symbols,
                                     const uint8_t*& next, uint8_t* out) {
    if constexpr (Unit < kFractalSymbols / kLanes) {
        store(out + kLanes * Unit, symbols(codes_of<Width, 64, Unit>(codes), next));
        decode_fractal<Width, Escapes, Run, Unit + 1>(codes, symbols, next, out);
    }
}

// Bytes that will be wanted soon, asked for a few cache lines at a time: 15 % faster from memory on Zen 3.
struct Ahead {
    const uint8_t* at;
    int lines;  // a fractal

    TILEPRESS_INLINE void ask() {
        for (int line = 0; line < lines; ++line, at += 64) __builtin_prefetch(at);
    }
};

template <int Width, bool Escapes, bool Run>
const uint8_t* decode_strip(const uint8_t* codes, int fractals, const Level& level, const uint8_t* next, uint8_t* out,
                            Ahead& ahead) {
    const Symbols<Width, Escapes, Run> symbols(level);
    for (int fractal = 0; fractal < fractals; ++fractal) {
        ahead.ask();
        decode_fractal(codes + 64 * Width * fractal, symbols, next, out + kFractalSymbols * fractal);
    }
    return next;
}

using DecodeLevel = const uint8_t* (*)(const uint8_t*, int, const Level&, const uint8_t*, uint8_t*);
using DecodeStrip = const uint8_t* (*)(const uint8_t*, int, const Level&, const uint8_t*, uint8_t*, Ahead&);

// By width less 1, then whether the level has an escape.
constexpr DecodeLevel kDecodeLevel[7][2] = {
    {decode_level<1, false>, decode_level<1, true>}, {decode_level<2, false>, decode_level<2, true>},
    {decode_level<3, false>, decode_level<3, true>}, {decode_level<4, false>, decode_level<4, true>},
    {decode_level<5, false>, decode_level<5, true>}, {decode_level<6, false>, decode_level<6, true>},
    {decode_level<7, false>, decode_level<7, true>},
};
constexpr DecodeStrip kDecodeStrip[7][2] = {
    {decode_strip<1, false, false>, decode_strip<1, true, false>},
    {decode_strip<2, false, false>, decode_strip<2, true, false>},
    {decode_strip<3, false, false>, decode_strip<3, true, false>},
    {decode_strip<4, false, false>, decode_strip<4, true, false>},
    {decode_strip<5, false, false>, decode_strip<5, true, false>},
    {decode_strip<6, false, false>, decode_strip<6, true, false>},
    {decode_strip<7, false, false>, decode_strip<7, true, false>},
};
constexpr DecodeStrip kDecodeRunStrip[3][2] = {
    {decode_strip<5, false, true>, decode_strip<5, true, true>},
    {decode_strip<6, false, true>, decode_strip<6, true, true>},
    {decode_strip<7, false, true>, decode_strip<7, true, true>},
};

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
