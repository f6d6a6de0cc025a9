#include "tiles/tile_plan.hpp"

#include <algorithm>
#include <bit>

namespace tilepress {

namespace {

uint32_t round_up(uint32_t value, uint32_t multiple) { return (value + multiple - 1) / multiple * multiple; }

uint32_t code_bytes(int width, uint32_t count) {
    return width == 8 ? round_up(count, 16) : static_cast<uint32_t>(16 * width) * ((count + 127) / 128);
}

// Writes the values that occur in rank order, returns how many.
int rank_values(const uint32_t histogram[256], int8_t ranked[256]) {
    uint32_t keys[256];
    int distinct = 0;
    for (int value = -128; value < 128; ++value) {
        const uint32_t occurrences = histogram[value & 255];
        const int magnitude = value < 0 ? -value : value;
        if (occurrences > 0) keys[distinct++] = (kMaxTileSymbols - occurrences) << 9 | magnitude << 1 | (value >= 0);
    }
    std::sort(keys, keys + distinct);
    for (int rank = 0; rank < distinct; ++rank) {
        const int magnitude = static_cast<int>(keys[rank] >> 1 & 255);
        ranked[rank] = static_cast<int8_t>(keys[rank] & 1 ? magnitude : -magnitude);
    }
    return distinct;
}

class Search {
  public:
    Search(const uint32_t histogram[256], TileShape shape) : shape_(shape) {
        distinct_ = rank_values(histogram, trial_.ranked);
        left_[0] = static_cast<uint32_t>(shape.f * kFractalSymbols);
        for (int rank = 0; rank < distinct_; ++rank) {
            left_[rank + 1] = left_[rank] - histogram[trial_.ranked[rank] & 255];
        }
        trial_.count[0] = left_[0];
    }

    TilePlan run() {
        best_.bytes = UINT32_MAX;
        trial_.levels = 1;
        accept_terminal(0, 8, 0, 0);  // raw comes first: only a smaller encoding replaces it
        for (int levels = 1; levels <= kMaxLevels; ++levels) {
            trial_.levels = levels;
            const int counts = levels > 1 ? shape_.r + levels - 2 : 0;
            descend<0>(0, static_cast<uint32_t>(2 * counts), 0);
        }
        return best_;
    }

  private:
    // Chooses the widths of this level and all after it. `header` and `codes` are the bytes of what was chosen before.
    template <int level>
    void descend(int taken, uint32_t header, uint32_t codes) {
        trial_.first[level] = taken;
        trial_.count[level] = left_[taken];
        if (level + 1 == trial_.levels) {
            const int values = distinct_ - taken;
            const int width = static_cast<int>(std::bit_width(static_cast<unsigned>(values - 1)));
            if (width < 8) accept_terminal(level, width, header + (1u << width), codes);
            accept_terminal(level, 8, header, codes);
            return;
        }
        if constexpr (level + 1 < kMaxLevels) {
            for (int width = 1; width <= 7; ++width) {
                const int values = (1 << width) - 1;
                if (taken + values >= distinct_) return;
                trial_.width[level] = width;
                trial_.values[level] = values;
                const uint32_t own = level == 0 ? 0 : code_bytes(width, trial_.count[level]);
                descend<level + 1>(taken + values, header + static_cast<uint32_t>(values), codes + own);
            }
        }
    }

    void accept_terminal(int level, int width, uint32_t header, uint32_t codes) {
        trial_.width[level] = width;
        trial_.values[level] = distinct_ - trial_.first[level];
        if (level > 0) codes += code_bytes(width, trial_.count[level]);
        trial_.header = static_cast<uint32_t>(64 * trial_.width[0] * shape_.f);
        trial_.codes = round_up(trial_.header + header, 16);
        trial_.bytes = round_up(trial_.codes + codes, 64);
        if (trial_.bytes < best_.bytes) best_ = trial_;
    }

    TileShape shape_;
    int distinct_;
    uint32_t left_[257];  // symbols that are not among the first so many ranked values
    TilePlan trial_{}, best_{};
};

}  // namespace

TilePlan plan_tile(const uint32_t histogram[256], TileShape shape) { return Search(histogram, shape).run(); }

}  // namespace tilepress
