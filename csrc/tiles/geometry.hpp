// How a matrix is cut into fractals and tiles (docs/reference/bitstream.md, "Geometry").
#pragma once

#include <cstdint>

namespace tilepress {

constexpr int64_t kBitstreamV1 = 0x54500001;
constexpr int64_t kResidentForm = 0x54500003;
constexpr int kFractalRows = 16;
constexpr int kFractalColumns = 32;
constexpr int kFractalSymbols = kFractalRows * kFractalColumns;
constexpr int kMaxTileFractals = 64;
constexpr int kMaxTileSymbols = kMaxTileFractals * kFractalSymbols;
constexpr int64_t kMaxDimension = 0x7fffffff;

// Fractals of one tile: r strips of c fractals, f in all. Less than the tiling at the lower and right border.
struct TileShape {
    int r, c, f;
};

struct Geometry {
    int64_t n, k;                // rows and columns of the matrix
    int64_t tiling_n, tiling_k;  // fractals of a whole tile, down and across
    int64_t n1, k1;              // fractals of the matrix, down and across
    int64_t n_index, k_index;    // tiles of the matrix, down and across

    // The numbers must be in the ranges that the bitstream allows; nothing overflows then.
    Geometry(int64_t n, int64_t k, int64_t tiling_n, int64_t tiling_k)
        : n(n),
          k(k),
          tiling_n(tiling_n),
          tiling_k(tiling_k),
          n1((n + kFractalRows - 1) / kFractalRows),
          k1((k + kFractalColumns - 1) / kFractalColumns),
          n_index((n1 + tiling_n - 1) / tiling_n),
          k_index((k1 + tiling_k - 1) / tiling_k) {}

    int64_t tiles() const { return n_index * k_index; }

    TileShape tile(int64_t i, int64_t j) const {
        const int64_t down = n1 - i * tiling_n, across = k1 - j * tiling_k;
        const int r = static_cast<int>(down < tiling_n ? down : tiling_n);
        const int c = static_cast<int>(across < tiling_k ? across : tiling_k);
        return {r, c, r * c};
    }
};

}  // namespace tilepress
