"""What the detector adds to an image: counting noise, blur, readout noise, filters and the crop."""
