"""What happens to files, disks and processes, many thousand times: nothing may vanish, hang or change unsaid.

    python tools/soak                                   # all of it: 20,000 mutants, 200 kills, disks, 200,000 crops
    python tools/soak --only mutants --count 500        # some of it
    python tools/soak --only "mutants:ONNX" --seed 7    # one kind, other damage

The exit code is 3 where anything but a refusal or the right answer came out.
"""
