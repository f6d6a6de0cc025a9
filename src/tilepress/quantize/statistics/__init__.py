"""Statistics of the calibration tokens: Hessians, ranges, sensitivities."""
