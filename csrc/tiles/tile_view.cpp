#include "tiles/tile_view.hpp"

#include "tiles/little_endian.hpp"

namespace tilepress {

namespace {

uint64_t round_up(uint64_t value, uint64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

TileError parse_widths(uint64_t entry, TileView& view) {
    view.levels = 0;
    for (int level = 0; level < kMaxLevels; ++level) {
        const int nibble = static_cast<int>(entry >> (48 + 4 * level) & 15);
        if (nibble > 9) return TileError::width_out_of_range;
        if (nibble == 0) continue;
        if (view.levels != level) return TileError::level_gap;
        view.width[level] = nibble - 1;
        view.levels = level + 1;
    }
    if (view.levels == 0) return TileError::no_level;
    for (int level = 0; level + 1 < view.levels; ++level) {
        if (view.width[level] == 0 || view.width[level] == 8) return TileError::escape_width;
    }
    return TileError::none;
}

TileError parse_counts(const uint8_t* header, TileView& view) {
    if (view.levels == 1) return TileError::none;
    const int strip_symbols = view.shape.c * kFractalSymbols;
    int before = 0;
    for (int strip = 0; strip < view.shape.r; ++strip) {
        const int escapes = load_u16(header + 2 * strip);
        if (escapes < before) return TileError::sync_falls;
        if (escapes - before > strip_symbols) return TileError::sync_jumps;
        view.sync[strip] = static_cast<uint16_t>(escapes);
        before = escapes;
    }
    view.count[1] = static_cast<uint32_t>(before);
    for (int level = 2; level < view.levels; ++level) {
        view.count[level] = load_u16(header + 2 * (view.shape.r + level - 2));
        if (view.count[level] > view.count[level - 1]) return TileError::count_grows;
    }
    return TileError::none;
}

uint64_t code_bytes(int width, uint32_t count) {
    if (width == 8) return round_up(count, 16);
    return static_cast<uint64_t>(16 * width) * ((count + 127) / 128);
}

}  // namespace

const char* describe(TileError error) {
    switch (error) {
        case TileError::none:
            return "no error";
        case TileError::width_out_of_range:
            return "a level is wider than 8 bits";
        case TileError::level_gap:
            return "an unused level stands before a used one";
        case TileError::no_level:
            return "no level at all";
        case TileError::escape_width:
            return "a level with an escape has width 0 or 8";
        case TileError::offset_unaligned:
            return "the offset is not a multiple of 64";
        case TileError::past_end:
            return "the tile reaches past the end of weight";
        case TileError::ends_elsewhere:
            return "the tile does not end where the next one begins";
        case TileError::sync_falls:
            return "the sync table falls";
        case TileError::sync_jumps:
            return "the sync table grows by more than the symbols of a strip";
        case TileError::count_grows:
            return "a level has more codes than the one before";
        case TileError::patches_fall:
            return "the patches do not follow one another";
        case TileError::patch_outside:
            return "a patch lies outside the tile";
    }
    return "unknown error";
}

TileError parse_entry(uint64_t entry, uint64_t size, TileView& view) {
    view.offset = entry & kOffsetMask;
    if (const TileError error = parse_widths(entry, view); error != TileError::none) return error;
    if (view.offset % 64 != 0) return TileError::offset_unaligned;
    return view.offset < size ? TileError::none : TileError::past_end;
}

TileError parse_tile(const uint8_t* weight, uint64_t size, uint64_t entry, TileShape shape, TileView& view) {
    view.shape = shape;
    view.patches = {};
    if (const TileError error = parse_entry(entry, size, view); error != TileError::none) return error;
    const uint64_t room = size - view.offset;
    const uint8_t* tile = weight + view.offset;

    view.count[0] = static_cast<uint32_t>(shape.f * kFractalSymbols);
    view.codes[0] = tile;
    uint64_t position = static_cast<uint64_t>(64 * view.width[0]) * static_cast<uint64_t>(shape.f);

    // The header's length follows from the widths alone, so its numbers are read only once it is known to be there.
    const uint64_t header = position;
    if (view.levels > 1) position += static_cast<uint64_t>(2 * (shape.r + view.levels - 2));
    const uint64_t tables = position;
    for (int level = 0; level < view.levels; ++level) position += static_cast<uint64_t>(view.table_size(level));
    position = round_up(position, 16);
    if (position > room) return TileError::past_end;
    if (const TileError error = parse_counts(tile + header, view); error != TileError::none) return error;

    const uint8_t* table = tile + tables;
    for (int level = 0; level < view.levels; ++level) {
        view.table[level] = view.width[level] == 8 ? nullptr : table;
        table += view.table_size(level);
    }
    for (int level = 1; level < view.levels; ++level) {
        view.codes[level] = tile + position;
        position += code_bytes(view.width[level], view.count[level]);
        if (position > room) return TileError::past_end;
    }
    view.bytes = round_up(position, 64);
    return view.bytes > room ? TileError::past_end : TileError::none;
}

}  // namespace tilepress
