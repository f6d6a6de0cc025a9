#include "decode.hpp"

#include <algorithm>

#include "first_error.hpp"
#include "isa.hpp"
#include "kernels.hpp"
#include "tasks.hpp"

namespace tilepress {

void decode(const TensorView& tensor, int threads, int8_t* matrix) {
    const Geometry& geometry = tensor.geometry;
    const Kernels& run = isa().kernels;
    const int64_t rows = kFractalRows * geometry.tiling_n, columns = kFractalColumns * geometry.tiling_k;
    FirstError error;
    parallel_for(geometry.n_index, threads, [&](int64_t i) {
        TileView tile;
        for (int64_t j = 0; j < geometry.k_index; ++j) {
            if (const TileError bad = tensor.parse(i, j, tile); bad != TileError::none) {
                return error.header(geometry, i, j, bad);
            }
            const int level = run.decode(tile, workspace(), matrix + i * rows * geometry.k + j * columns, geometry.k,
                                         static_cast<int>(std::min(rows, geometry.n - i * rows)),
                                         static_cast<int>(std::min(columns, geometry.k - j * columns)));
            if (level >= 0) return error.escapes(geometry, i, j, level);
        }
    });
    error.raise();
}

}  // namespace tilepress
