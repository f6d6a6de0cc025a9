// The kernels for any processor.
#define TILEPRESS_TARGET portable
#include "simd_portable.hpp"
// after the operations it is written in
#include "multiply-inl.hpp"
// before the decoder that opens tiles by them
#include "decode-inl.hpp"
// in plain loops
#include "activations-inl.hpp"
#include "attention-inl.hpp"
#include "rounding-inl.hpp"
#include "scale_sums-inl.hpp"

namespace tilepress {

extern const Kernels kPortableKernels;
const Kernels kPortableKernels{portable::decode,   portable::decode_rows, portable::multiply<portable::Dot>,
                               portable::quantize, portable::find_range,  portable::scale_sums,
                               portable::attend,   portable::round_rows};

}  // namespace tilepress
