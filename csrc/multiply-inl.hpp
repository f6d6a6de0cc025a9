// Multiplying by a tile, strip by strip: a strip is decoded into the first-level cache once and multiplied by all
// tokens.
#pragma once

#include "open_tile-inl.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// Adds to sums[Tokens][16] what Tokens tokens get from `groups` groups of a strip, whose symbols are `lowest` too
// small.
template <class Dot, int Tokens>
TILEPRESS_INLINE void multiply_tokens(const uint8_t* strip, int groups, int lowest, const int8_t* values,
                                      const int32_t* totals, int32_t* sums) {
    constexpr int kParts = 64 / kLanes, kRows = kFractalRows / kParts;
    Sums acc[Tokens][kParts];
    for (int t = 0; t < Tokens; ++t) {
        for (int part = 0; part < kParts; ++part) acc[t][part] = splat_sums(lowest * totals[t]);
    }
    for (int group = 0; group < groups; group += Dot::kGroups) {
        typename Dot::Weights weights[kParts];
        for (int part = 0; part < kParts; ++part) weights[part] = Dot::weights(strip + 64 * group + kLanes * part);
        for (int t = 0; t < Tokens; ++t) {
            const typename Dot::Values four = Dot::values(values + 4 * (t * groups + group));
            for (int part = 0; part < kParts; ++part) acc[t][part] = Dot::add(acc[t][part], weights[part], four);
        }
    }
    for (int t = 0; t < Tokens; ++t) {
        for (int part = 0; part < kParts; ++part) add_to(sums + kFractalRows * t + kRows * part, acc[t][part]);
    }
}

template <class Dot>
void multiply_strip(const uint8_t* strip, int groups, int lowest, const Activations& x, int32_t* sums) {
    constexpr int kBlock = 4;  // tokens whose sums stay in registers
    int t = 0;
    const auto step = [&]<int Tokens>() __attribute__((always_inline)) {
        multiply_tokens<Dot, Tokens>(strip, groups, lowest, x.values + 4 * groups * t, x.totals + t,
                                     sums + kFractalRows * t);
        t += Tokens;
    };
    while (x.tokens - t >= kBlock) step.template operator()<kBlock>();
    if (x.tokens - t >= 2) step.template operator()<2>();
    if (x.tokens - t >= 1) step.template operator()<1>();
}

using MultiplyStrip = void (*)(const uint8_t*, int, int, const Activations&, int32_t*);

// The cheapest dot product that is exact for symbols up to `range` and values up to `largest` in magnitude.
MultiplyStrip choose_dot(int range, int largest) {
    const int pair = 2 * range * largest;
    if (4 * pair <= 32767) return multiply_strip<NarrowDot<4>>;
    if (2 * pair <= 32767) return multiply_strip<NarrowDot<2>>;
    if (pair <= 32767) return multiply_strip<NarrowDot<1>>;
    return multiply_strip<WideDot>;
}

int multiply(const TileView& tile, Workspace& workspace, const Activations& x, const uint8_t* ahead, int32_t* sums) {
    OpenTile open;
    open_tile(tile, true, workspace, open);
    const MultiplyStrip multiply = choose_dot(open.range, x.largest);
    const int lines = static_cast<int>((tile.bytes / 64 + tile.shape.f - 1) / tile.shape.f);
    Ahead soon{ahead, lines};
    for (int strip = 0; strip < tile.shape.r; ++strip) {
        next_strip(tile, strip, open, workspace.symbols, soon);
        multiply(workspace.symbols, 8 * tile.shape.c, open.lowest, x, sums + kFractalRows * x.tokens * strip);
    }
    return bad_level(tile, open, workspace);
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
