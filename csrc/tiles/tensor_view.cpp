#include "tiles/tensor_view.hpp"

#include "tiles/bitstream_error.hpp"

namespace tilepress {

namespace {

std::string number(int64_t value) { return std::to_string(value); }

constexpr uint64_t kPatchBytes = 3;

uint64_t starts_bytes(const Geometry& geometry) { return 4 * static_cast<uint64_t>(geometry.tiles() + 1); }

// Of the resident form, whose index begins as that of tiles does.
TensorView with_patches(TensorView tensor, uint64_t index_bytes) {
    const uint64_t entries = 8 * static_cast<uint64_t>(tensor.geometry.tiles()), starts = starts_bytes(tensor.geometry);
    if (index_bytes >= entries + starts) {
        tensor.patches = tensor.index + entries;
        tensor.patch_count = load_u32(tensor.patches + starts - 4);
        if (index_bytes == entries + starts + kPatchBytes * tensor.patch_count) return tensor;
    }
    throw BitstreamError("index has " + std::to_string(index_bytes) + " bytes, not those of " +
                         number(tensor.geometry.tiles()) + " tiles and their patches");
}

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
    if (version != kBitstreamV1 && version != kResidentForm) {
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
    if (version == kResidentForm) return with_patches({geometry, weight, weight_bytes, index}, index_bytes);
    if (index_bytes != 8 * static_cast<uint64_t>(geometry.tiles())) {
        throw BitstreamError("index has " + std::to_string(index_bytes) + " bytes, but a matrix of " + number(n) +
                             " x " + number(k) + " has " + number(geometry.tiles()) + " tiles of 8");
    }
    return {geometry, weight, weight_bytes, index};
}

TileError TensorView::find_patches(int64_t i, int64_t j, TileView& tile) const {
    const uint8_t* const start = patches + 4 * (i * geometry.k_index + j);
    const uint64_t begin = load_u32(start), end = load_u32(start + 4);
    if (begin > end || end > patch_count) return TileError::patches_fall;
    const uint8_t* const positions = patches + starts_bytes(geometry);
    tile.patches = {
        .positions = positions + 2 * begin,
        .values = reinterpret_cast<const int8_t*>(positions + 2 * patch_count + begin),
        .count = static_cast<int>(end - begin),
    };
    int before = -1;
    for (int patch = 0; patch < tile.patches.count; ++patch) {
        const int position = load_u16(tile.patches.positions + 2 * patch);
        if (position <= before) return TileError::patches_fall;
        before = position;
    }
    return before < tile.shape.f * kFractalSymbols ? TileError::none : TileError::patch_outside;
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
            if (tensor.patches == nullptr) continue;
            if (const TileError bad = tensor.find_patches(i, j, tile); bad != TileError::none) {
                throw BitstreamError(i, j, describe(bad));
            }
        }
    }
    if (end != tensor.weight_bytes) {
        throw BitstreamError(geometry.n_index - 1, geometry.k_index - 1, "the last tile ends before the end of weight");
    }
}

}  // namespace tilepress
