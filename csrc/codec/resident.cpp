#include "codec/resident.hpp"

#include <algorithm>

#include "codec/tile_source-inl.hpp"
#include "simd/encode_tile.hpp"
#include "simd/isa.hpp"
#include "threads/tasks.hpp"
#include "tiles/little_endian.hpp"

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

TilePlan plan_of(const Run& run, TileShape shape) {
    TilePlan plan{};
    const uint32_t symbols = static_cast<uint32_t>(shape.f * kFractalSymbols);
    plan.levels = 1;
    plan.width[0] = run.width;
    plan.values[0] = 1 << run.width;
    plan.count[0] = symbols;
    for (int value = 0; value < 1 << run.width; ++value) {
        plan.ranked[value] = static_cast<int8_t>(run.width == 8 ? value : run.low + value);
    }
    plan.header = symbols / 8 * static_cast<uint32_t>(run.width);
    plan.codes = round_up(plan.header + (run.width == 8 ? 0u : 1u << run.width), 16);
    plan.bytes = round_up(plan.codes, 64);
    return plan;
}

ResidentPlan plan_tile_resident(const Source& source) {
    uint32_t histogram[256];
    count_symbols(source, histogram);
    const uint32_t symbols = static_cast<uint32_t>(source.shape.f * kFractalSymbols);
    // Padding takes any value.
    histogram[0] -= symbols - static_cast<uint32_t>(source.rows * source.columns);
    const uint32_t real = static_cast<uint32_t>(source.rows * source.columns);
    Run best{8, -128, 0};
    uint64_t least = 8ull * symbols;
    for (const int width : kWidths) {
        const Run run = widest_run(histogram, real, width);
        const uint64_t cost = static_cast<uint64_t>(width) * symbols + kPatchBits * run.outside;
        if (cost < least) {
            least = cost;
            best = run;
        }
    }
    return {plan_of(best, source.shape), best.outside};
}

// Takes the values outside the run out of `symbols`, in the order of their positions, which end up at its ends.
void take_patches(const Source& source, const TilePlan& plan, uint8_t* symbols, uint8_t* positions, uint8_t* values) {
    if (plan.width[0] == 8) return;
    const int low = plan.ranked[0], high = plan.ranked[plan.values[0] - 1];
    const int of_strip = source.shape.c * kFractalSymbols;
    for (int begin = 0; begin < source.shape.f * kFractalSymbols; begin += 64) {
        int8_t* const group = reinterpret_cast<int8_t*>(symbols + begin);
        bool any = false;
        for (int i = 0; i < 64; ++i) any |= group[i] < low || group[i] > high;
        if (!any) continue;
        const int row = begin / of_strip * kFractalRows, column = begin % of_strip / 64 * 4;
        for (int i = 0; i < 64; ++i) {
            const int value = group[i];
            if (value >= low && value <= high) continue;
            group[i] = static_cast<int8_t>(value < low ? low : high);
            if (row + i / 4 >= source.rows || column + i % 4 >= source.columns) continue;
            store_u16(positions, static_cast<uint16_t>(begin + i));
            *values++ = static_cast<uint8_t>(value);
            positions += 2;
        }
    }
}

}  // namespace

std::vector<ResidentPlan> plan_resident(const int8_t* matrix, const Geometry& geometry, int threads) {
    std::vector<ResidentPlan> plans(static_cast<size_t>(geometry.tiles()));
    parallel_for(geometry.tiles(), threads, [&](int64_t number) {
        plans[static_cast<size_t>(number)] =
            plan_tile_resident(Source(matrix, geometry, number / geometry.k_index, number % geometry.k_index));
    });
    return plans;
}

uint64_t weight_bytes(const std::vector<ResidentPlan>& plans) {
    uint64_t bytes = 0;
    for (const ResidentPlan& plan : plans) bytes += plan.tile.bytes;
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
        store_u64(index + 8 * number, offset | plans[number].tile.nibbles());
        store_u32(starts + 4 * number, patches);
        offset += plans[number].tile.bytes;
        patches += plans[number].patches;
    }
    store_u32(starts + 4 * plans.size(), patches);
    uint8_t* const values = positions + 2 * static_cast<uint64_t>(patches);
    EncodeTile& write = isa().encode_tile;
    parallel_for(geometry.tiles(), threads, [&](int64_t number) {
        static thread_local EncodeBuffers buffers;
        const TilePlan& plan = plans[static_cast<size_t>(number)].tile;
        const Source source(matrix, geometry, number / geometry.k_index, number % geometry.k_index);
        gather_symbols(source, buffers.symbols[0]);
        const uint64_t first = load_u32(starts + 4 * number);
        take_patches(source, plan, buffers.symbols[0], positions + 2 * first, values + first);
        write(plan, source.shape, buffers, weight + (load_u64(index + 8 * number) & kOffsetMask));
    });
}

}  // namespace tilepress
