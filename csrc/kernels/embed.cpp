#include "kernels/embed.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "simd/isa.hpp"
#include "simd/kernels.hpp"
#include "threads/tasks.hpp"
#include "tiles/first_error.hpp"

namespace tilepress {

namespace {

void check_ids(const int64_t* ids, int64_t count, int64_t rows) {
    for (int64_t t = 0; t < count; ++t) {
        if (ids[t] >= 0 && ids[t] < rows) continue;
        throw std::out_of_range("ids holds " + std::to_string(ids[t]) + ", but the embedding has rows 0 to " +
                                std::to_string(rows - 1));
    }
}

}  // namespace

void embed(const TensorView& table, const int64_t* ids, int64_t count, const float* scales, float* out, int threads) {
    const Geometry& geometry = table.geometry;
    const Kernels& run = isa().kernels;
    check_ids(ids, count, geometry.n);
    const int64_t width = kFractalColumns * geometry.tiling_k;
    FirstError error;
    parallel_for(count, threads, [&](int64_t t) {
        const int64_t strip = ids[t] / kFractalRows, i = strip / geometry.tiling_n;
        const float scale = scales[ids[t]];
        TileView tile;
        for (int64_t j = 0; j < geometry.k_index; ++j) {
            if (const TileError bad = table.parse(i, j, tile); bad != TileError::none) {
                return error.header(geometry, i, j, bad);
            }
            const int level = run.decode_rows(tile, workspace(), static_cast<int>(strip % geometry.tiling_n));
            if (level >= 0) return error.escapes(geometry, i, j, level);
            const uint8_t* const row = workspace().rows + ids[t] % kFractalRows * kFractalColumns * tile.shape.c;
            float* const to = out + t * geometry.k + j * width;
            const int64_t columns = std::min(width, geometry.k - j * width);
            for (int64_t c = 0; c < columns; ++c) to[c] = static_cast<float>(static_cast<int8_t>(row[c])) * scale;
        }
    });
    error.raise();
}

}  // namespace tilepress
