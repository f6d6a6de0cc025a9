// One compressed tensor: its three parts, geometry known and index length checked.
#pragma once

#include <cstdint>

#include "tiles/geometry.hpp"
#include "tiles/little_endian.hpp"
#include "tiles/tile_view.hpp"

namespace tilepress {

struct TensorView {
    Geometry geometry;
    const uint8_t* weight;
    uint64_t weight_bytes;
    const uint8_t* index;
    // Of the resident form, else null: behind the entries of the index, for each tile and past the last one the number
    // of its first patch (32 bits), the patches' positions (16 bits) and their values (8 bits).
    const uint8_t* patches = nullptr;
    uint64_t patch_count = 0;

    uint64_t entry(int64_t i, int64_t j) const { return load_u64(index + 8 * (i * geometry.k_index + j)); }

    // Where tile (i, j) has to end, by the index.
    uint64_t end(int64_t i, int64_t j) const {
        const int64_t next = i * geometry.k_index + j + 1;
        return next < geometry.tiles() ? load_u64(index + 8 * next) & kOffsetMask : weight_bytes;
    }

    TileError parse(int64_t i, int64_t j, TileView& tile) const {
        const TileError error = parse_tile(weight, weight_bytes, entry(i, j), geometry.tile(i, j), tile);
        if (error != TileError::none) return error;
        if (tile.offset + tile.bytes != end(i, j)) return TileError::ends_elsewhere;
        return patches == nullptr ? TileError::none : find_patches(i, j, tile);
    }

    TileError find_patches(int64_t i, int64_t j, TileView& tile) const;
};

// Checks what info says of a matrix in any form: 1 to 2^31 - 1 rows and columns. Throws BitstreamError.
void check_dimensions(int64_t n, int64_t k);

// Checks info and the length of index, not the tiles. Throws BitstreamError. The bytes stay the caller's.
TensorView open_tensor(const uint8_t* weight, uint64_t weight_bytes, const uint8_t* index, uint64_t index_bytes,
                       const int64_t* info, uint64_t info_length);

// Checks what index alone tells: widths, and offsets that rise from 0 within weight. The tiles are not touched.
// Throws BitstreamError with the number of the first tile that is wrong.
void check_index(const TensorView& tensor);

// Checks every tile's index entry and header, and that the tiles follow one another from the first byte to the last.
// Throws BitstreamError with the number of the first tile that is wrong.
void validate(const TensorView& tensor);

}  // namespace tilepress
