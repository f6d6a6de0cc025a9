#include "tiles/tensor_view.hpp"

#include "tiles/bitstream_error.hpp"

namespace tilepress {

namespace {

std::string number(int64_t value) { return std::to_string(value); }

}  // namespace

void check_dimensions(int64_t n, int64_t k) {
    if (n < 1 || k < 1 || n > kMaxDimension || k > kMaxDimension) {
        throw BitstreamError("info gives a matrix of " + number(n) + " x " + number(k) +
                             "; both must be 1 to 2^31 - 1");
    }
}

TensorView open_tensor(const uint8_t* weight, uint64_t weight_bytes, const uint8_t* index, uint64_t index_bytes,
                       const int64_t* info, uint64_t info_length) {
    if (info_length != 5) throw BitstreamError("info has " + std::to_string(info_length) + " entries, not 5");
    const int64_t tiling_k = info[0], tiling_n = info[1], k = info[2], n = info[3], version = info[4];
    if (version != kBitstreamV1) {
        throw BitstreamError("info[4] is " + number(version) + ", not " + number(kBitstreamV1) +
                             ": the tensor is compressed for the Atlas card by the vendor's closed compressor, or "
                             "damaged; compress it from the W8A8S directory instead");
    }
    check_dimensions(n, k);
    if (tiling_n < 1 || tiling_k < 1 || tiling_n > kMaxTileFractals || tiling_k > kMaxTileFractals ||
        tiling_n * tiling_k > kMaxTileFractals) {
        throw BitstreamError("info gives tiles of " + number(tiling_n) + " x " + number(tiling_k) +
                             " fractals; both must be at least 1, their product at most 64");
    }
    const Geometry geometry(n, k, tiling_n, tiling_k);
    if (index_bytes != 8 * static_cast<uint64_t>(geometry.tiles())) {
        throw BitstreamError("index has " + std::to_string(index_bytes) + " bytes, but a matrix of " + number(n) +
                             " x " + number(k) + " has " + number(geometry.tiles()) + " tiles of 8");
    }
    return {geometry, weight, weight_bytes, index};
}

void check_index(const TensorView& tensor) {
    const Geometry& geometry = tensor.geometry;
    TileView tile;
    uint64_t least = 0;
    for (int64_t i = 0; i < geometry.n_index; ++i) {
        for (int64_t j = 0; j < geometry.k_index; ++j) {
            if (const TileError error = parse_entry(tensor.entry(i, j), tensor.weight_bytes, tile);
                error != TileError::none) {
                throw BitstreamError(i, j, describe(error));
            }
            const bool first = i == 0 && j == 0;
            if (first ? tile.offset != 0 : tile.offset < least) {
                throw BitstreamError(i, j, first ? "the offset is not 0" : "the offset does not rise");
            }
            least = tile.offset + 1;
        }
    }
}

void validate(const TensorView& tensor) {
    const Geometry& geometry = tensor.geometry;
    TileView tile;
    uint64_t end = 0;
    for (int64_t i = 0; i < geometry.n_index; ++i) {
        for (int64_t j = 0; j < geometry.k_index; ++j) {
            if ((tensor.entry(i, j) & kOffsetMask) != end) {
                throw BitstreamError(i, j, "the offset is not where the tile before ends");
            }
            const TileError error =
                parse_tile(tensor.weight, tensor.weight_bytes, tensor.entry(i, j), geometry.tile(i, j), tile);
            if (error != TileError::none) {
                throw BitstreamError(i, j, describe(error));
            }
            end += tile.bytes;
        }
    }
    if (end != tensor.weight_bytes) {
        throw BitstreamError(geometry.n_index - 1, geometry.k_index - 1, "the last tile ends before the end of weight");
    }
}

}  // namespace tilepress
