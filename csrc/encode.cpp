#include "encode.hpp"

#include <algorithm>
#include <cstring>

#include "little_endian.hpp"
#include "pack_planes.hpp"
#include "tasks.hpp"

namespace tilepress {

namespace {

// Copies tile (i, j) in symbol order: fractal by fractal, [8 groups][16 rows][4 columns], zeros past the matrix.
void gather_symbols(const int8_t* matrix, const Geometry& geometry, int64_t i, int64_t j, uint8_t* symbols) {
    const TileShape shape = geometry.tile(i, j);
    const int64_t top = i * geometry.tiling_n * kFractalRows, left = j * geometry.tiling_k * kFractalColumns;
    const int64_t rows = std::min<int64_t>(shape.r * kFractalRows, geometry.n - top);
    const int64_t columns = std::min<int64_t>(shape.c * kFractalColumns, geometry.k - left);
    if (rows < shape.r * kFractalRows || columns < shape.c * kFractalColumns) {
        std::memset(symbols, 0, static_cast<size_t>(shape.f * kFractalSymbols));
    }
    for (int64_t row = 0; row < rows; ++row) {
        const int8_t* from = matrix + (top + row) * geometry.k + left;
        uint8_t* to = symbols + row / kFractalRows * shape.c * kFractalSymbols + row % kFractalRows * 4;
        // Four columns on, the symbol lies 64 further: fractals of a strip follow one another in the same step.
        const int64_t quads = columns / 4;
        for (int64_t quad = 0; quad < quads; ++quad) std::memcpy(to + 64 * quad, from + 4 * quad, 4);
        std::memcpy(to + 64 * quads, from + 4 * quads, static_cast<size_t>(columns % 4));
    }
}

void count_symbols(const uint8_t* symbols, int length, uint32_t histogram[256]) {
    // Four tables: a symbol that repeats need not wait for its own counter.
    uint32_t part[4][256] = {};
    for (int at = 0; at < length; at += 4) {
        for (int lane = 0; lane < 4; ++lane) ++part[lane][symbols[at + lane]];
    }
    for (int value = 0; value < 256; ++value) {
        histogram[value] = part[0][value] + part[1][value] + part[2][value] + part[3][value];
    }
}

// One level of a plan: its table, and the code of each symbol.
struct Coder {
    uint8_t table[256];
    int table_size;
    uint8_t code[256];
    int escape;  // the escape's code, 256 in a terminal level: no code equals it

    Coder(const TilePlan& plan, int level) {
        const int width = plan.width[level], values = plan.values[level];
        const bool terminal = level + 1 == plan.levels;
        escape = terminal ? 256 : (1 << width) - 1;
        if (width == 8) {
            table_size = 0;
            for (int symbol = 0; symbol < 256; ++symbol) code[symbol] = static_cast<uint8_t>(symbol);
            return;
        }
        int8_t sorted[256];
        std::copy_n(plan.ranked + plan.first[level], values, sorted);
        std::sort(sorted, sorted + values);
        table_size = terminal ? 1 << width : values;
        std::memset(code, escape & 255, sizeof code);
        for (int at = 0; at < table_size; ++at) {
            table[at] = static_cast<uint8_t>(sorted[std::min(at, values - 1)]);
            if (at < values) code[table[at]] = static_cast<uint8_t>(at);
        }
    }

    // Codes `length` symbols; those that escape are appended at `escaped`. Returns how many. A symbol is stored there
    // before it is known whether it escapes: `escaped` needs room for one more.
    int run(const uint8_t* symbols, int length, uint8_t* codes, uint8_t* escaped) const {
        const int escape_code = escape;  // a member would be read again after each byte stored
        int escapes = 0;
        for (int at = 0; at < length; ++at) {
            const uint8_t symbol = symbols[at], own = code[symbol];
            codes[at] = own;
            escaped[escapes] = symbol;
            escapes += own == escape_code;
        }
        return escapes;
    }
};

// The symbols of a level and those that escape to the next, in turns.
struct Scratch {
    uint8_t symbols[2][kMaxTileSymbols + 1];
};

// Codes level 0 to `out`; leaves what escapes at `escaped` and the running number of escapes a strip in `sync`.
void write_level_0(const Coder& coder, int width, TileShape shape, const uint8_t* symbols, uint8_t* escaped,
                   uint8_t* out, uint16_t sync[kMaxTileFractals]) {
    uint8_t codes[kFractalSymbols];
    int escapes = 0;
    for (int strip = 0; strip < shape.r; ++strip) {
        for (int fractal = 0; fractal < shape.c; ++fractal, symbols += kFractalSymbols, out += 64 * width) {
            escapes += coder.run(symbols, kFractalSymbols, codes, escaped + escapes);
            pack_planes<64>(codes, width, out);
        }
        sync[strip] = static_cast<uint16_t>(escapes);
    }
}

// Codes the `count` symbols of a level after 0 to `out`; leaves what escapes at `escaped`. Returns the end of the
// codes.
uint8_t* write_level(const Coder& coder, int width, int count, const uint8_t* symbols, uint8_t* escaped, uint8_t* out) {
    int escapes = 0;
    for (int begin = 0; begin < count; begin += 128, out += 16 * width) {
        uint8_t codes[128] = {};
        escapes += coder.run(symbols + begin, std::min(128, count - begin), codes, escaped + escapes);
        pack_planes<16>(codes, width, out);
    }
    return out;
}

// Writes the tile whose symbols are in scratch.symbols[0] to plan.bytes zeroed bytes.
void write_tile(const TilePlan& plan, TileShape shape, Scratch& scratch, uint8_t* out) {
    uint8_t* header = out + plan.header;
    uint8_t* codes = out + plan.codes;
    uint8_t* tables = header + (plan.levels > 1 ? 2 * (shape.r + plan.levels - 2) : 0);
    uint16_t sync[kMaxTileFractals];
    for (int level = 0; level < plan.levels; ++level) {
        const Coder coder(plan, level);
        const uint8_t* symbols = scratch.symbols[level % 2];
        uint8_t* escaped = scratch.symbols[1 - level % 2];
        const int width = plan.width[level], count = static_cast<int>(plan.count[level]);
        std::memcpy(tables, coder.table, static_cast<size_t>(coder.table_size));
        tables += coder.table_size;
        if (width == 8) {
            std::memcpy(level == 0 ? out : codes, symbols, static_cast<size_t>(count));
        } else if (level == 0) {
            write_level_0(coder, width, shape, symbols, escaped, out, sync);
        } else {
            codes = write_level(coder, width, count, symbols, escaped, codes);
        }
    }
    if (plan.levels == 1) return;
    for (int strip = 0; strip < shape.r; ++strip, header += 2) store_u16(header, sync[strip]);
    for (int level = 2; level < plan.levels; ++level, header += 2) {
        store_u16(header, static_cast<uint16_t>(plan.count[level]));
    }
}

}  // namespace

std::vector<TilePlan> plan_tiles(const int8_t* matrix, const Geometry& geometry, int threads) {
    std::vector<TilePlan> plans(static_cast<size_t>(geometry.tiles()));
    parallel_for(geometry.tiles(), threads, [&](int64_t number) {
        const int64_t i = number / geometry.k_index, j = number % geometry.k_index;
        const TileShape shape = geometry.tile(i, j);
        uint32_t histogram[256];
        uint8_t symbols[kMaxTileSymbols];
        gather_symbols(matrix, geometry, i, j, symbols);
        count_symbols(symbols, shape.f * kFractalSymbols, histogram);
        plans[static_cast<size_t>(number)] = plan_tile(histogram, shape);
    });
    return plans;
}

uint64_t weight_bytes(const std::vector<TilePlan>& plans) {
    uint64_t bytes = 0;
    for (const TilePlan& plan : plans) bytes += plan.bytes;
    return bytes;
}

void write_tiles(const int8_t* matrix, const Geometry& geometry, const std::vector<TilePlan>& plans, int threads,
                 uint8_t* weight, uint8_t* index) {
    uint64_t offset = 0;
    for (size_t number = 0; number < plans.size(); ++number) {
        store_u64(index + 8 * number, offset | plans[number].nibbles());
        offset += plans[number].bytes;
    }
    parallel_for(geometry.tiles(), threads, [&](int64_t number) {
        const int64_t i = number / geometry.k_index, j = number % geometry.k_index;
        Scratch scratch;
        gather_symbols(matrix, geometry, i, j, scratch.symbols[0]);
        const uint64_t begin = load_u64(index + 8 * number) & kOffsetMask;
        write_tile(plans[static_cast<size_t>(number)], geometry.tile(i, j), scratch, weight + begin);
    });
}

}  // namespace tilepress
