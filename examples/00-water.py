"""Water with the tracegrad guess, by key and by hand; the answer is that of minao, in fewer cycles."""

from pyscf import gto

import pyscf_tracegrad

mol = gto.M(atom="O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692", basis="def2-svp", verbose=0)

mf = mol.RKS(xc="b3lyp")
mf.init_guess = "tracegrad"
mf.kernel()
print(f"init_guess='tracegrad'    {mf.e_tot:.10f} hartree, {mf.cycles} cycles ({mf.init_guess_report})")

mf = mol.RKS(xc="b3lyp")
mf.kernel(dm0=pyscf_tracegrad.tracegrad_guess(mf))
print(f"dm0=tracegrad_guess(mf)   {mf.e_tot:.10f} hartree, {mf.cycles} cycles")

mf = mol.RKS(xc="b3lyp")
mf.kernel()
print(f"init_guess='minao'        {mf.e_tot:.10f} hartree, {mf.cycles} cycles")
