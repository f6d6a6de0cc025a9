// The kernels for any processor.
#define TILEPRESS_TARGET portable
#include "simd/simd_portable.hpp"
// after the operations it is written in
#include "kernels/multiply-inl.hpp"
// before the decoder that opens tiles by them
#include "codec/decode-inl.hpp"
#include "codec/entropy_lanes-inl.hpp"
// after the lanes it is written in
#include "codec/entropy_block-inl.hpp"
// in plain loops
#include "kernels/activations-inl.hpp"
#include "kernels/attention-inl.hpp"
#include "kernels/elementwise-inl.hpp"
#include "kernels/float_rows-inl.hpp"
#include "kernels/scale_sums-inl.hpp"
#include "rounding/refinement-inl.hpp"

namespace tilepress {

extern const Kernels kPortableKernels;
const Kernels kPortableKernels{
    portable::decode,         portable::decode_rows, portable::decode_entropy, portable::multiply<portable::Dot>,
    portable::quantize,       portable::find_range,  portable::scale_sums,     portable::attend,
    portable::round_rows,     portable::refine_rows, portable::normalize,      portable::gate,
    portable::multiply_floats};

}  // namespace tilepress
