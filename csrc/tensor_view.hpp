// One compressed tensor: its three parts, geometry known and index length checked.
#pragma once

#include <cstdint>

#include "geometry.hpp"
#include "little_endian.hpp"
#include "tile_view.hpp"

namespace tilepress {

struct TensorView {
    Geometry geometry;
    const uint8_t* weight;
    uint64_t weight_bytes;
    const uint8_t* index;

    uint64_t entry(int64_t i, int64_t j) const { return load_u64(index + 8 * (i * geometry.k_index + j)); }

    TileError parse(int64_t i, int64_t j, TileView& tile) const {
        return parse_tile(weight, weight_bytes, entry(i, j), geometry.tile(i, j), tile);
    }
};

// Checks info and the length of index, not the tiles. Throws BitstreamError. The bytes stay the caller's.
TensorView open_tensor(const uint8_t* weight, uint64_t weight_bytes, const uint8_t* index, uint64_t index_bytes,
                       const int64_t* info, uint64_t info_length);

// Checks every tile's index entry and header, and that the tiles follow one another from the first byte to the last.
// Throws BitstreamError with the number of the first tile that is wrong.
void validate(const TensorView& tensor);

}  // namespace tilepress
