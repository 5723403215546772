#!/usr/bin/env bash
# The same microscopic image lies in three places, by format and reader.
#
# SimpleITK 2.5.7 obeys the unit of length in a NIfTI header (xyzt_units) and ignores the one in an NRRD header
# (space units), though both are part of their formats. nibabel 5.4.2 leaves its affine in the header's unit, so that it
# is in mm only where the header is.
#
# Seen: voxel size of an image of 10 um voxels, 0.01 mm
#   NIfTI, SimpleITK 0.01 | NRRD, SimpleITK 10.0 | NIfTI, nibabel 10.0
#
# Fails as soon as one of the three changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" --quiet install SimpleITK==2.5.7 nibabel==5.4.2 pynrrd==1.1.3 numpy==2.2.6
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import nibabel
import nrrd
import numpy
import SimpleITK

voxels = numpy.arange(4 * 5 * 6, dtype=numpy.int16).reshape(4, 5, 6)
nifti = nibabel.Nifti1Image(voxels, numpy.diag([10.0, 10, 10, 1]))
nifti.header.set_xyzt_units("micron")
nibabel.save(nifti, "image.nii")
header = {"space": "right-anterior-superior", "space directions": numpy.eye(3) * 10, "space units": ["um"] * 3}
nrrd.write("image.nrrd", voxels, header)

seen = {
    "NIfTI, SimpleITK": SimpleITK.ReadImage("image.nii").GetSpacing()[0],
    "NRRD, SimpleITK": SimpleITK.ReadImage("image.nrrd").GetSpacing()[0],
    "NIfTI, nibabel": float(numpy.linalg.norm(nibabel.load("image.nii").affine[:3, 0])),
}
for reader, size in seen.items():
    print(f"{reader}: voxels of {size:.3g}; stored are 10 um, 0.01 mm")
expected = {"NIfTI, SimpleITK": 0.01, "NRRD, SimpleITK": 10.0, "NIfTI, nibabel": 10.0}
changed = [reader for reader in seen if not numpy.isclose(seen[reader], expected[reader])]
raise SystemExit(f"changed: {', '.join(changed)}" if changed else 0)
PYTHON
