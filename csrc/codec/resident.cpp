#define TILEPRESS_TARGET any

#include "codec/resident.hpp"

#include <cstring>

#include "codec/pack_planes-inl.hpp"
#include "codec/tile_source-inl.hpp"
#include "threads/tasks.hpp"
#include "tiles/little_endian.hpp"
#include "tiles/tile_view.hpp"

namespace tilepress {

namespace {

// What a patch costs, in bits of codes: 24 are read, and its products are added on their own.
constexpr uint64_t kPatchBits = 100;
// Codes of 1 to 3 bits are read no faster than those of 4.
constexpr int kWidths[] = {7, 6, 5, 4, 0};

constexpr uint32_t round_up(uint32_t value, uint32_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// A run of 2^width values, or raw bytes for width 8.
struct Run {
    int width, low;
    uint32_t outside;
};

// The run of that width that holds the most symbols, the one of the lowest values among several.
Run widest_run(const uint32_t histogram[256], uint32_t symbols, int width) {
    const int values = 1 << width;
    uint32_t inside = 0, most = 0;
    int best = -128;
    for (int high = -128; high < 128; ++high) {
        inside += histogram[high & 255];
        if (high - values >= -128) inside -= histogram[(high - values) & 255];
        const int low = high - values + 1;
        if (low >= -128 && inside > most) {
            most = inside;
            best = low;
        }
    }
    return {width, best, symbols - most};
}

// The cheapest run for one row of the tile in every `step`, `outside` of it as of all rows.
Run choose_run(const Source& source, int step) {
    uint32_t histogram[256] = {};
    uint32_t counted = 0;
    for (int row = 0; row < source.rows; row += step, counted += static_cast<uint32_t>(source.columns)) {
        const uint8_t* const from = source.begin + row * source.stride;
        for (int c = 0; c < source.columns; ++c) ++histogram[from[c]];
    }
    const uint64_t symbols = static_cast<uint64_t>(source.shape.f * kFractalSymbols);
    Run best{8, -128, 0};
    uint64_t least = 8 * symbols;
    for (const int width : kWidths) {
        Run run = widest_run(histogram, counted, width);
        run.outside *= static_cast<uint32_t>(step);
        const uint64_t cost = static_cast<uint64_t>(width) * symbols + kPatchBits * run.outside;
        if (cost < least) {
            least = cost;
            best = run;
        }
    }
    return best;
}

// How many of `count` bytes, 255 vectors at most, are above `most` when `low` is taken away, modulo 2^8.
uint32_t count_above(const uint8_t* bytes, int count, uint8_t low, uint8_t most) {
    typedef uint8_t Bytes __attribute__((vector_size(16)));
    Bytes above{};
    int at = 0;
    for (; at + 16 <= count; at += 16) {
        Bytes value;
        std::memcpy(&value, bytes + at, 16);
        above -= reinterpret_cast<Bytes>(value - low > Bytes{} + most);
    }
    uint32_t total = 0;
    for (int i = 0; i < 16; ++i) total += above[i];
    for (; at < count; ++at) total += static_cast<uint8_t>(bytes[at] - low) > most;
    return total;
}

uint32_t count_outside(const Source& source, const Run& run) {
    if (run.width == 8) return 0;
    uint32_t outside = 0;
    for (int row = 0; row < source.rows; ++row) {
        source.ask_for_next(row);
        outside += count_above(source.begin + row * source.stride, source.columns, static_cast<uint8_t>(run.low),
                               static_cast<uint8_t>((1 << run.width) - 1));
    }
    return outside;
}

ResidentPlan plan_tile(const Source& source) {
    // Counting the values of all rows takes longer than everything else.
    constexpr int kStep = 4, kEnough = 64;
    Run run = choose_run(source, source.rows < kEnough ? 1 : kStep);
    uint32_t outside = count_outside(source, run);
    if (outside > 2 * run.outside + kEnough) {  // the other rows are not like those
        run = choose_run(source, 1);
        outside = run.outside;
    }
    const uint32_t symbols = static_cast<uint32_t>(source.shape.f * kFractalSymbols);
    const uint32_t header = symbols / 8 * static_cast<uint32_t>(run.width);
    const uint32_t table = run.width == 8 ? 0u : 1u << run.width;
    return {run.width, run.low, outside, header, round_up(round_up(header + table, 16), 64)};
}

// A tile being written. Patches are in the order of their positions, which end up at its ends.
class Writer {
  public:
    Writer(const Source& source, const ResidentPlan& plan, uint8_t* out, uint8_t* positions, uint8_t* values)
        : source_(source), plan_(plan), out_(out), positions_(positions), values_(values) {}

    void run(uint8_t* symbols) {
        gather_symbols(source_, symbols);
        const int fractals = source_.shape.f;
        if (plan_.width == 8) {
            std::memcpy(out_, symbols, static_cast<size_t>(fractals * kFractalSymbols));
        } else {
            for (int fractal = 0; fractal < fractals; ++fractal) write_fractal(symbols, fractal);
            for (int value = 0; value < 1 << plan_.width; ++value) {
                out_[plan_.header + static_cast<uint32_t>(value)] = static_cast<uint8_t>(plan_.low + value);
            }
        }
        const uint32_t end = plan_.header + (plan_.width == 8 ? 0u : 1u << plan_.width);
        std::memset(out_ + end, 0, plan_.bytes - end);
    }

  private:
    void write_fractal(const uint8_t* symbols, int fractal) {
        const uint8_t* const from = symbols + kFractalSymbols * fractal;
        const uint8_t low = static_cast<uint8_t>(plan_.low), most = static_cast<uint8_t>((1 << plan_.width) - 1);
        alignas(64) uint8_t codes[kFractalSymbols];
        for (int i = 0; i < kFractalSymbols; ++i) codes[i] = static_cast<uint8_t>(from[i] - low);
        for (int begin = 0; begin < kFractalSymbols; begin += 64) {
            if (count_above(from + begin, 64, low, most) == 0) continue;
            for (int i = begin; i < begin + 64; ++i) {
                if (codes[i] > most) codes[i] = patch(fractal, i, from[i], most);
            }
        }
        if (plan_.width > 0) any::kPackPlanes<64>[plan_.width - 1](codes, out_ + 64 * plan_.width* fractal);
    }

    // Takes the value of symbol i of a fractal out, unless it is padding, which takes any value. Returns its code.
    uint8_t patch(int fractal, int i, uint8_t value, uint8_t most) {
        const int row = fractal / source_.shape.c * kFractalRows + i % 64 / 4;
        const int column = fractal % source_.shape.c * kFractalColumns + i / 64 * 4 + i % 4;
        if (row < source_.rows && column < source_.columns) {
            store_u16(positions_, static_cast<uint16_t>(kFractalSymbols * fractal + i));
            positions_ += 2;
            *values_++ = value;
        }
        return static_cast<int8_t>(value) < plan_.low ? 0 : most;
    }

    const Source& source_;
    const ResidentPlan& plan_;
    uint8_t *const out_, *positions_, *values_;
};

}  // namespace

std::vector<ResidentPlan> plan_resident(const int8_t* matrix, const Geometry& geometry, int threads) {
    std::vector<ResidentPlan> plans(static_cast<size_t>(geometry.tiles()));
    parallel_for(geometry.tiles(), threads, [&](int64_t number) {
        plans[static_cast<size_t>(number)] =
            plan_tile(Source(matrix, geometry, number / geometry.k_index, number % geometry.k_index));
    });
    return plans;
}

uint64_t weight_bytes(const std::vector<ResidentPlan>& plans) {
    uint64_t bytes = 0;
    for (const ResidentPlan& plan : plans) bytes += plan.bytes;
    return bytes;
}

uint64_t index_bytes(const std::vector<ResidentPlan>& plans) {
    uint64_t bytes = 12 * plans.size() + 4;
    for (const ResidentPlan& plan : plans) bytes += 3 * static_cast<uint64_t>(plan.patches);
    return bytes;
}

void write_resident(const int8_t* matrix, const Geometry& geometry, const std::vector<ResidentPlan>& plans, int threads,
                    uint8_t* weight, uint8_t* index) {
    uint8_t* const starts = index + 8 * plans.size();
    uint8_t* const positions = starts + 4 * (plans.size() + 1);
    uint64_t offset = 0;
    uint32_t patches = 0;
    for (size_t number = 0; number < plans.size(); ++number) {
        store_u64(index + 8 * number, offset | static_cast<uint64_t>(plans[number].width + 1) << 48);
        store_u32(starts + 4 * number, patches);
        offset += plans[number].bytes;
        patches += plans[number].patches;
    }
    store_u32(starts + 4 * plans.size(), patches);
    uint8_t* const values = positions + 2 * static_cast<uint64_t>(patches);
    parallel_for(geometry.tiles(), threads, [&](int64_t number) {
        alignas(64) static thread_local uint8_t symbols[kMaxTileSymbols];
        const uint64_t first = load_u32(starts + 4 * number);
        uint8_t* const out = weight + (load_u64(index + 8 * number) & kOffsetMask);
        const Source source(matrix, geometry, number / geometry.k_index, number % geometry.k_index);
        Writer(source, plans[static_cast<size_t>(number)], out, positions + 2 * first, values + first).run(symbols);
    });
}

}  // namespace tilepress
