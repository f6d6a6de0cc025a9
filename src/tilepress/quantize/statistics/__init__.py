"""What is learnt from the calibration tokens: Hessians, ranges, sensitivities."""
