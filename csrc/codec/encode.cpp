#include "codec/encode.hpp"

#include "codec/tile_source-inl.hpp"
#include "simd/encode_tile.hpp"
#include "simd/isa.hpp"
#include "threads/tasks.hpp"
#include "tiles/little_endian.hpp"

namespace tilepress {

std::vector<TilePlan> plan_tiles(const int8_t* matrix, const Geometry& geometry, int threads) {
    std::vector<TilePlan> plans(static_cast<size_t>(geometry.tiles()));
    parallel_for(geometry.tiles(), threads, [&](int64_t number) {
        const int64_t i = number / geometry.k_index, j = number % geometry.k_index;
        const Source source(matrix, geometry, i, j);
        uint32_t histogram[256];
        count_symbols(source, histogram);
        plans[static_cast<size_t>(number)] = plan_tile(histogram, source.shape);
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
    EncodeTile& write = isa().encode_tile;
    parallel_for(geometry.tiles(), threads, [&](int64_t number) {
        static thread_local EncodeBuffers buffers;
        const Source source(matrix, geometry, number / geometry.k_index, number % geometry.k_index);
        gather_symbols(source, buffers.symbols[0]);
        const uint64_t begin = load_u64(index + 8 * number) & kOffsetMask;
        write(plans[static_cast<size_t>(number)], source.shape, buffers, weight + begin);
    });
}

}  // namespace tilepress
