// Opening a tile by AVX-512: the levels behind the first are decoded as a whole, last one first, into buffers; the
// first one then strip by strip, its escapes taking from the buffer.
#pragma once

#include <cstring>
#include <utility>

#include "codec/levels_avx512.hpp"

namespace tilepress::avx512 {
namespace {

// Bytes that will be wanted soon, asked for a few cache lines at a time. Into the second-level cache: asking for the
// first-level one, whose few miss buffers the tile at hand needs too, leaves 30 of 41 G weights/s (Zen 4, one thread).
struct Ahead {
    const uint8_t* at;
    int lines;  // a fractal

    TILEPRESS_INLINE void ask() {
        for (int line = 0; line < lines; ++line, at += 64) _mm_prefetch(at, _MM_HINT_T1);
    }
};

// A tile whose levels behind the first are decoded. Symbols are the values, with the bits of `flip` inverted: 0 gives
// two's complement, 0x80 the value plus 128.
struct OpenTile {
    Level level;  // the first
    uint8_t flip;
    const uint8_t* next;  // symbols of level 1 that no strip has taken yet
    int bad_level;        // -1, or a level whose escapes are not as many as the next one's count
};

void flip_bytes(const uint8_t* bytes, int count, uint8_t flip, uint8_t* out) {
    for (int i = 0; i < count; i += 64) {
        const __mmask64 there = count - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (count - i)) - 1;
        store(out + i, _mm512_xor_si512(_mm512_maskz_loadu_epi8(there, bytes + i), splat(flip)));
    }
}

void read_table(const TileView& tile, int l, uint8_t flip, Level& level) {
    const int size = tile.table_size(l);
    for (int i = 0; i < 128; i += 64) {
        const __mmask64 there = size - i >= 64 ? ~__mmask64{0} : size > i ? (__mmask64{1} << (size - i)) - 1 : 0;
        store(level.table + i, _mm512_xor_si512(_mm512_maskz_loadu_epi8(there, tile.table[l] + i), splat(flip)));
    }
}

using DecodeLevel = const uint8_t* (*)(const uint8_t*, int, const Level&, const uint8_t*, uint8_t*);

// By width less 1, then whether the level has an escape.
constexpr DecodeLevel kDecodeLevel[7][2] = {
    {decode_level<1, false>, decode_level<1, true>}, {decode_level<2, false>, decode_level<2, true>},
    {decode_level<3, false>, decode_level<3, true>}, {decode_level<4, false>, decode_level<4, true>},
    {decode_level<5, false>, decode_level<5, true>}, {decode_level<6, false>, decode_level<6, true>},
    {decode_level<7, false>, decode_level<7, true>},
};

// Symbols become distances from `lowest`, which is 0 or -128.
void open_tile(const TileView& tile, int lowest, Workspace& workspace, OpenTile& open) {
    const uint8_t flip = static_cast<uint8_t>(lowest);
    open.flip = flip;
    open.bad_level = -1;
    open.next = workspace.levels[1];  // never taken from where there is one level, but read
    for (int l = tile.levels - 1; l > 0; --l) {
        uint8_t* const out = workspace.levels[l % 2];
        const int width = tile.width[l], count = static_cast<int>(tile.count[l]);
        const bool terminal = l + 1 == tile.levels;
        const uint8_t* const symbols = open.next;
        const uint8_t* taken = symbols;
        if (width == 8) {
            flip_bytes(tile.codes[l], count, flip, out);
        } else if (width == 0) {
            std::memset(out, tile.table[l][0] ^ flip, static_cast<size_t>(count));
        } else {
            Level level;
            read_table(tile, l, flip, level);
            taken = kDecodeLevel[width - 1][!terminal](tile.codes[l], count, level, symbols, out);
        }
        if (!terminal && taken - symbols != static_cast<int>(tile.count[l + 1])) open.bad_level = l;
        open.next = out;
    }
    if (tile.width[0] < 8) read_table(tile, 0, flip, open.level);
}

// After the last strip: as OpenTile's bad_level, level 0 included.
int bad_level(const TileView& tile, const OpenTile& open, const Workspace& workspace) {
    if (open.bad_level >= 0) return open.bad_level;
    if (tile.levels == 1) return -1;
    return open.next - workspace.levels[1] == static_cast<int>(tile.count[1]) ? -1 : 0;
}

// Calls use(integral_constant unit) for the eight groups of a fractal.
template <typename Use>
TILEPRESS_INLINE void each_unit(Use&& use) {
    [&]<int... Unit>(std::integer_sequence<int, Unit...>) __attribute__((always_inline)) {
        (use(std::integral_constant<int, Unit>{}), ...);
    }(std::make_integer_sequence<int, 8>{});
}

template <int Width, bool Escapes>
const uint8_t* decode_fractals(const uint8_t* codes, int fractals, const Level& level, const uint8_t* next,
                               uint8_t* out, Ahead& ahead) {
    const Symbols<Width, Escapes> symbols(level);
    for (int f = 0; f < fractals; ++f, codes += 64 * Width, out += kFractalSymbols) {
        ahead.ask();
        const Fractal<Width> fractal(codes);
        each_unit([&](auto unit) __attribute__((always_inline)) {
            store(out + 64 * unit, symbols.template of<unit>(fractal.template inverted<unit>(), next));
        });
    }
    return next;
}

using DecodeFractals = const uint8_t* (*)(const uint8_t*, int, const Level&, const uint8_t*, uint8_t*, Ahead&);

constexpr DecodeFractals kDecodeFractals[7][2] = {
    {decode_fractals<1, false>, decode_fractals<1, true>}, {decode_fractals<2, false>, decode_fractals<2, true>},
    {decode_fractals<3, false>, decode_fractals<3, true>}, {decode_fractals<4, false>, decode_fractals<4, true>},
    {decode_fractals<5, false>, decode_fractals<5, true>}, {decode_fractals<6, false>, decode_fractals<6, true>},
    {decode_fractals<7, false>, decode_fractals<7, true>},
};

// The symbols of strip `strip`, [fractals][8 groups][16 rows][4 columns]. Strips must be asked for in order,
// or `open.next` be put where the strip's escapes begin.
void next_strip(const TileView& tile, int strip, OpenTile& open, uint8_t* out, Ahead& ahead) {
    const int fractals = tile.shape.c, width = tile.width[0];
    const uint8_t* const codes = tile.codes[0] + 64 * width * fractals * strip;
    if (width == 8) {
        flip_bytes(codes, fractals * kFractalSymbols, open.flip, out);
    } else if (width == 0) {
        std::memset(out, open.level.table[0], static_cast<size_t>(fractals * kFractalSymbols));
    } else {
        open.next = kDecodeFractals[width - 1][tile.levels > 1](codes, fractals, open.level, open.next, out, ahead);
    }
}

}  // namespace
}  // namespace tilepress::avx512
