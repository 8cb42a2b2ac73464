; Puts accesses to x86isa, the model of ACL2's books. ACL2 reads this from standard input, and then the
; forms of emu/judges/x86isa.py. Answers are lines that begin with "crosswalk".
:q
#+gcl (setq si::*notify-gbc* nil) ; It would print in the middle of a line.
(lp)
(set-inhibit-output-lst '(proof-tree prove event summary observation history warning))
(set-ld-post-eval-print nil state)
(set-ld-prompt nil state)
(include-book "projects/x86isa/machine/paging" :dir :system)
(in-package "X86ISA")

(defun crosswalk-print (words state)
  (declare (xargs :stobjs state :mode :program))
  (if (atom words)
      (newline *standard-co* state)
    (pprogn (princ$ (car words) *standard-co* state)
            (princ$ " " *standard-co* state)
            (crosswalk-print (cdr words) state))))

; Writes words of physical memory: a list of (address . value).
(defun crosswalk-store (words x86)
  (declare (xargs :stobjs x86 :mode :program))
  (if (atom words)
      x86
    (let ((x86 (wm-low-64 (caar words) (cdar words) x86)))
      (crosswalk-store (cdr words) x86))))

; Returns of such words those that are others now, in a flat list before CHANGED.
(defun crosswalk-changed (words changed x86)
  (declare (xargs :stobjs x86 :mode :program))
  (if (atom words)
      changed
    (let ((now (rm-low-64 (caar words) x86)))
      (crosswalk-changed (cdr words)
                         (if (equal now (cdar words)) changed (list* (caar words) now changed))
                         x86))))

(defun crosswalk-enter (cr0 cr3 cr4 efer x86)
  (declare (xargs :stobjs x86 :mode :program))
  (b* ((x86 (!app-view nil x86))
       (x86 (!marking-view t x86))
       (x86 (!ctri *cr0* cr0 x86))
       (x86 (!ctri *cr3* cr3 x86))
       (x86 (!ctri *cr4* cr4 x86)))
    (!msri *ia32_efer-idx* efer x86)))

; Makes accesses, each from the same state: a list of (number address kind cpl ac . words). Of each is
; printed its number, what LA-TO-PA returns and the faults that it noted, and the words changed.
(defun crosswalk-ask (accesses x86 state)
  (declare (xargs :stobjs (x86 state) :mode :program))
  (b* (((when (atom accesses)) (mv x86 state))
       ((list* number address kind cpl ac words) (car accesses))
       (x86 (!fault nil x86))
       (x86 (!rflags (if (equal ac 1) #x40002 #x2) x86))
       (x86 (!seg-visiblei *cs* cpl x86))
       ((mv flag pa x86) (la-to-pa address kind x86))
       (changed (crosswalk-changed words nil x86))
       (state (crosswalk-print (list* "crosswalk" number flag pa (fault x86) "changed" changed) state))
       (x86 (crosswalk-store words x86)))
    (crosswalk-ask (cdr accesses) x86 state)))

; Tells which of these words are others than they were.
(defun crosswalk-check (words x86 state)
  (declare (xargs :stobjs (x86 state) :mode :program))
  (crosswalk-print (list* "crosswalk" "strays" (crosswalk-changed words nil x86)) state))

(crosswalk-print (list "crosswalk" "of" (acl2::f-get-global 'acl2::acl2-version state)) state)
