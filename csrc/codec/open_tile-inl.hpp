// Decoding a tile (docs/reference/bitstream.md, "Levels" and "Tile"), in the vector operations of the including file's
// target.
//
// The levels behind the first are decoded as a whole, last one first, into buffers; the first one then strip by strip,
// its escapes taking from the buffer. Symbols come out as distances from `lowest`, modulo 2^8: unsigned where a dot
// product wants one operand unsigned; the values themselves, as two's complement bytes, with a `lowest` of 0.
#pragma once

#include <cstring>

#include "codec/levels-inl.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

void subtract(const uint8_t* bytes, int count, int value, uint8_t* out) {
    for (int i = 0; i < count; ++i) out[i] = static_cast<uint8_t>(bytes[i] - value);
}

// A tile whose levels behind the first are decoded.
struct OpenTile {
    Level level[kMaxLevels];
    int lowest;                // of which symbols are the distances
    DecodeStrip decode_codes;  // null where no codes of 1 to 7 bits make up level 0
    const uint8_t* next;       // symbols of level 1 that no strip has taken yet
    int bad_level;             // -1, or a level whose escapes are not as many as the next one's count
};

void read_tables(const TileView& tile, int lowest, OpenTile& open) {
    for (int l = 0; l < tile.levels; ++l) {
        const int size = tile.table_size(l);
        uint8_t* const table = open.level[l].table;
        subtract(tile.table[l], size, lowest, table);
        std::memset(table + size, 0, sizeof open.level[l].table - static_cast<size_t>(size));
    }
}

bool is_run(const uint8_t* table, int size) {
    uint8_t breaks = 0;
    for (int i = 1; i < size; ++i) breaks |= static_cast<uint8_t>(table[i] - table[i - 1] - 1);
    return breaks == 0;
}

void open_tile(const TileView& tile, int lowest, Workspace& workspace, OpenTile& open) {
    open.lowest = lowest;
    read_tables(tile, lowest, open);
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

// The symbols of strip `strip`, [fractals][8 groups][16 rows][4 columns]. Strips must be asked for in order,
// or `open.next` be put where the strip's escapes begin.
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

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
