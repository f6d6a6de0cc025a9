// Multiplying by a tile, strip by strip: a strip is decoded into the first-level cache once and multiplied by all
// tokens. What a dot product is, the including file's target says:
//
//   kGroups                  groups of 64 symbols that one `add` takes
//   kChains                  sums that one token needs, so that one addition need not wait for the one before
//   weights(symbols)         symbols of kLanes / 4 rows of kGroups groups
//   values(x)                4 * kGroups columns of activations
//   add(sums, weights, values)
//
// and, where it is exact for all symbols, kLowest, of which the symbols must be the distances.
#pragma once

#include "codec/open_tile-inl.hpp"
#include "codec/patches-inl.hpp"
#include "kernels/add_patches-inl.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// Adds to sums[Tokens][16] what Tokens tokens get from `groups` groups of a strip, whose symbols are `lowest` too
// small.
template <class Dot, int Tokens>
TILEPRESS_INLINE void multiply_tokens(const uint8_t* strip, int groups, int lowest, const int8_t* values,
                                      const int32_t* totals, int32_t* sums) {
    constexpr int kParts = 64 / kLanes, kRows = kFractalRows / kParts;
    constexpr int kChains = Dot::kChains > Tokens ? Dot::kChains / Tokens : 1;
    static_assert(8 % (kChains * Dot::kGroups) == 0);  // a fractal has 8 groups
    Sums acc[Tokens][kChains][kParts];
    for (int t = 0; t < Tokens; ++t) {
        for (int chain = 0; chain < kChains; ++chain) {
            const Sums start = splat_sums(chain == 0 ? lowest * totals[t] : 0);
            for (int part = 0; part < kParts; ++part) acc[t][chain][part] = start;
        }
    }
    for (int group = 0; group < groups;) {
        for (int chain = 0; chain < kChains; ++chain, group += Dot::kGroups) {
            typename Dot::Weights weights[kParts];
            for (int part = 0; part < kParts; ++part) weights[part] = Dot::weights(strip + 64 * group + kLanes * part);
            for (int t = 0; t < Tokens; ++t) {
                const typename Dot::Values x = Dot::values(values + 4 * (t * groups + group));
                for (int part = 0; part < kParts; ++part) {
                    acc[t][chain][part] = Dot::add(acc[t][chain][part], weights[part], x);
                }
            }
        }
    }
    for (int t = 0; t < Tokens; ++t) {
        for (int chain = 0; chain < kChains; ++chain) {
            for (int part = 0; part < kParts; ++part) {
                add_to(sums + kFractalRows * t + kRows * part, acc[t][chain][part]);
            }
        }
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

// exact: for all symbols, so that patches may be among them; else they are added to the sums.
int multiply_tile(const TileView& tile, int lowest, MultiplyStrip multiply, bool exact, Workspace& workspace,
                  const Activations& x, const uint8_t* ahead, int32_t* sums) {
    OpenTile open;
    open_tile(tile, lowest, workspace, open);
    const int lines = static_cast<int>((tile.bytes / 64 + tile.shape.f - 1) / tile.shape.f);
    Ahead soon{ahead, lines};
    int patch = 0;
    for (int strip = 0; strip < tile.shape.r; ++strip) {
        next_strip(tile, strip, open, workspace.symbols, soon);
        if (exact) patch_strip(tile, strip, lowest, workspace.symbols, patch);
        multiply(workspace.symbols, 8 * tile.shape.c, lowest, x, sums + kFractalRows * x.tokens * strip);
    }
    if (!exact) add_patches(tile, x, sums);
    return bad_level(tile, open, workspace);
}

// By a dot product that is exact for all symbols.
template <class Dot>
int multiply(const TileView& tile, Workspace& workspace, const Activations& x, const uint8_t* ahead, int32_t* sums) {
    return multiply_tile(tile, Dot::kLowest, multiply_strip<Dot>, true, workspace, x, ahead, sums);
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
