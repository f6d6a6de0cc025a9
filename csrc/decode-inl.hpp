// Decoding a tile (docs/bitstream.md, "Levels", "Tile" and "Planes"), in the vector operations of the including file's
// target.
//
// The levels behind the first are decoded as a whole, last one first, into buffers; the first one then strip by strip,
// its escapes taking from the buffer. Symbols come out as unsigned distances from `lowest`, which is what the
// multiplication wants; with a `lowest` of 0 they are the values themselves, as two's complement bytes.
#pragma once

#include <cstring>

#include "kernels.hpp"

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

// Bytes that will be wanted soon, asked for a few cache lines at a time.
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

void subtract(const uint8_t* bytes, int count, int value, uint8_t* out) {
    for (int i = 0; i < count; ++i) out[i] = static_cast<uint8_t>(bytes[i] - value);
}

// The extremes of `count` values, at least one.
struct Extremes {
    int8_t low = 127, high = -128;

    void include(const uint8_t* bytes, int count) {
        for (int i = 0; i < count; ++i) {
            const int8_t value = static_cast<int8_t>(bytes[i]);
            low = value < low ? value : low;
            high = value > high ? value : high;
        }
    }
};

// A tile whose levels behind the first are decoded.
struct OpenTile {
    Level level[kMaxLevels];
    DecodeStrip decode_codes;  // null where no codes of 1 to 7 bits make up level 0
    int lowest, range;         // all values lie from lowest to lowest + range
    const uint8_t* next;       // symbols of level 1 that no strip has taken yet
    int bad_level;             // -1, or a level whose escapes are not as many as the next one's count
};

void read_tables(const TileView& tile, bool find_lowest, OpenTile& open) {
    Extremes extremes;
    for (int l = 0; l < tile.levels; ++l) {
        uint8_t* const table = open.level[l].table;
        const int size = tile.table_size(l);
        if (size > 0) {
            std::memcpy(table, tile.table[l], static_cast<size_t>(size));
            std::memset(table + size, table[0], sizeof open.level[l].table - static_cast<size_t>(size));
            if (find_lowest) extremes.include(table, sizeof open.level[l].table);
        } else if (find_lowest) {
            extremes.include(tile.codes[l], static_cast<int>(tile.count[l]));
        }
    }
    open.lowest = find_lowest ? extremes.low : 0;
    open.range = extremes.high - extremes.low;
    for (int l = 0; l < tile.levels; ++l) {
        Level& level = open.level[l];
        if (tile.width[l] < 8) subtract(level.table, sizeof level.table, open.lowest, level.table);
        if (tile.escape(l) >= 0) level.table[tile.escape(l)] = 0;
    }
}

bool is_run(const uint8_t* table, int size) {
    uint8_t breaks = 0;
    for (int i = 1; i < size; ++i) breaks |= static_cast<uint8_t>(table[i] - table[i - 1] - 1);
    return breaks == 0;
}

void open_tile(const TileView& tile, bool find_lowest, Workspace& workspace, OpenTile& open) {
    read_tables(tile, find_lowest, open);
    open.bad_level = -1;
    open.next = nullptr;
    for (int l = tile.levels - 1; l > 0; --l) {
        uint8_t* const out = workspace.levels[l % 2];
        const int width = tile.width[l], count = static_cast<int>(tile.count[l]);
        const bool terminal = l + 1 == tile.levels;
        const uint8_t* const symbols = open.next;
        const uint8_t* taken = nullptr;
        if (width == 8) {
            subtract(tile.codes[l], count, open.lowest, out);
        } else if (width == 0) {
            std::memset(out, open.level[l].table[0], static_cast<size_t>(count));
        } else {
            taken = kDecodeLevel[width - 1][!terminal](tile.codes[l], count, open.level[l], symbols, out);
        }
        if (!terminal && taken - symbols != static_cast<int>(tile.count[l + 1])) open.bad_level = l;
        open.next = out;
    }
    const int width = tile.width[0];
    const bool escapes = tile.levels > 1;
    if (width == 0 || width == 8) {
        open.decode_codes = nullptr;
    } else if (width > 4 && is_run(open.level[0].table, tile.table_size(0))) {
        open.decode_codes = kDecodeRunStrip[width - 5][escapes];
    } else {
        open.decode_codes = kDecodeStrip[width - 1][escapes];
    }
}

// The symbols of strip `strip`, [fractals][8 groups][16 rows][4 columns]. Strips must be asked for in order.
void next_strip(const TileView& tile, int strip, OpenTile& open, uint8_t* out, Ahead& ahead) {
    const int fractals = tile.shape.c;
    const uint8_t* const codes = tile.codes[0] + 64 * tile.width[0] * fractals * strip;
    if (open.decode_codes != nullptr) {
        open.next = open.decode_codes(codes, fractals, open.level[0], open.next, out, ahead);
    } else if (tile.width[0] == 8) {
        subtract(codes, fractals * kFractalSymbols, open.lowest, out);
    } else {
        std::memset(out, open.level[0].table[0], static_cast<size_t>(fractals * kFractalSymbols));
    }
}

// After the last strip: as OpenTile's bad_level, level 0 included.
int bad_level(const TileView& tile, const OpenTile& open, const Workspace& workspace) {
    if (open.bad_level >= 0) return open.bad_level;
    if (tile.levels == 1) return -1;
    return open.next - workspace.levels[1] == static_cast<int>(tile.count[1]) ? -1 : 0;
}

// Puts a strip's symbols in row-major order.
void write_rows(const uint8_t* symbols, int fractals, int8_t* out, int64_t stride, int rows, int columns) {
    for (int fractal = 0; fractal < fractals; ++fractal) {
        const int left = columns - kFractalColumns * fractal;
        for (int row = 0; row < rows; ++row) {
            const uint8_t* const from = symbols + kFractalSymbols * fractal + 4 * row;
            int8_t* const to = out + row * stride + kFractalColumns * fractal;
            if (left >= kFractalColumns) {
                for (int group = 0; group < 8; ++group) std::memcpy(to + 4 * group, from + 64 * group, 4);
            } else {
                for (int column = 0; column < left; ++column) {
                    to[column] = static_cast<int8_t>(from[column / 4 * 64 + column % 4]);
                }
            }
        }
    }
}

int decode(const TileView& tile, Workspace& workspace, int8_t* out, int64_t stride, int rows, int columns) {
    OpenTile open;
    open_tile(tile, false, workspace, open);
    Ahead nothing{nullptr, 0};
    const bool escapes = tile.levels > 1;
    for (int strip = 0; strip < tile.shape.r; ++strip) {
        next_strip(tile, strip, open, workspace.strip, nothing);
        // Whoever starts at a strip takes its escapes from where the sync table says.
        if (escapes && open.bad_level < 0 && open.next - workspace.levels[1] != tile.sync[strip]) open.bad_level = 0;
        const int left = rows - kFractalRows * strip;
        write_rows(workspace.strip, tile.shape.c, out + kFractalRows * strip * stride, stride,
                   left < kFractalRows ? left : kFractalRows, columns);
    }
    return bad_level(tile, open, workspace);
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
