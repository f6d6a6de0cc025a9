// The kernels for 64-bit Arm with dot products.
#ifdef __ARM_FEATURE_DOTPROD

#define TILEPRESS_TARGET neon
#include "simd/simd_neon.hpp"
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

extern const Kernels kNeonKernels;
const Kernels kNeonKernels{neon::decode,         neon::decode_rows, neon::decode_entropy, neon::multiply<neon::Dot>,
                           neon::quantize,       neon::find_range,  neon::scale_sums,     neon::attend,
                           neon::round_rows,     neon::refine_rows, neon::normalize,      neon::gate,
                           neon::multiply_floats};

}  // namespace tilepress

#endif
