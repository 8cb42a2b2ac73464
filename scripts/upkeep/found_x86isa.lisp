; Asks x86isa, the model of ACL2's books, what accesses in 4-level paging come to: scripts/found x86isa.
; Each answer is (flag physical-address faults).
(set-ld-error-action :continue state)
(include-book "projects/x86isa/machine/paging" :dir :system)
(in-package "X86ISA")

(defun tables (cr4 pte x86)
  (declare (xargs :stobjs x86 :mode :program))
  (b* ((x86 (!app-view nil x86))
       (x86 (!ctri *cr0* #x80010033 x86))
       (x86 (!ctri *cr4* cr4 x86))
       (x86 (!ctri *cr3* #x1000 x86))
       (x86 (!msri *ia32_efer-idx* #xd00 x86))
       (x86 (wm-low-64 #x1000 #x2067 x86))
       (x86 (wm-low-64 #x2000 #x3067 x86))
       (x86 (wm-low-64 #x3000 #x4067 x86)))
    (wm-low-64 #x4000 pte x86)))

(defun ask (name access cr4 pte x86)
  (declare (xargs :stobjs x86 :mode :program))
  (b* ((x86 (tables cr4 pte x86))
       ((mv flag pa x86) (la-to-pa 0 access x86))
       (faults (fault x86))
       (x86 (!fault nil x86))
       (- (cw "~s0: ~x1~%" name (list flag pa faults))))
    x86))

; A fetch from a page whose PTE alone has XD set.
(ask "xd-of-the-pte" :x #x20 #x8000000000005067 x86)
; With SMAP, a read at CPL 0 of a page whose PTE alone has U/S clear.
(ask "smap-of-a-supervisor-page" :r #x200020 #x5063 x86)
