#include "codec/decode.hpp"

#include <algorithm>

#include "simd/isa.hpp"
#include "simd/kernels.hpp"
#include "threads/tasks.hpp"
#include "tiles/first_error.hpp"

namespace tilepress {

namespace {

// A matrix that the caches could hold is better left there for whoever reads it next.
constexpr int64_t kStreamFrom = 8 << 20;

bool whole_lines(int64_t number) { return number % 64 == 0; }

}  // namespace

void decode(const TensorView& tensor, int threads, int8_t* matrix) {
    const Geometry& geometry = tensor.geometry;
    const Kernels& run = isa().kernels;
    uint8_t* const begin = reinterpret_cast<uint8_t*>(matrix);
    const int64_t rows = kFractalRows * geometry.tiling_n, columns = kFractalColumns * geometry.tiling_k;
    const bool stream = geometry.n * geometry.k >= kStreamFrom && whole_lines(geometry.k) && whole_lines(columns) &&
                        whole_lines(reinterpret_cast<intptr_t>(matrix));
    FirstError error;
    parallel_for(geometry.n_index, threads, [&](int64_t i) {
        TileView tile;
        for (int64_t j = 0; j < geometry.k_index; ++j) {
            if (const TileError bad = tensor.parse(i, j, tile); bad != TileError::none) {
                return error.header(geometry, i, j, bad);
            }
            const Window window{.begin = begin + i * rows * geometry.k + j * columns,
                                .stride = geometry.k,
                                .rows = static_cast<int>(std::min(rows, geometry.n - i * rows)),
                                .columns = static_cast<int>(std::min(columns, geometry.k - j * columns)),
                                .stream = stream};
            // The next tile follows in memory and will be about as long.
            const uint8_t* const ahead = tensor.weight + tile.offset + tile.bytes;
            const int level = run.decode(tile, workspace(), window, ahead);
            if (level >= 0) return error.escapes(geometry, i, j, level);
        }
    });
    error.raise();
}

}  // namespace tilepress
