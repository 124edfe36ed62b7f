"""Who speaks: banks of voices, how they are drawn, what a recording to clone from must be like."""
