/** Longest wait for a frame: hidden tabs get no frames. */
const NO_FRAME_MS = 250;
/** Wait without `requestAnimationFrame`. */
const FALLBACK_MS = 16;

/**
 * Calls `run` once in the next animation frame, however often it is requested. If no frame comes (hidden
 * tab), it calls `run` after 250 ms; without `requestAnimationFrame`, after 16 ms.
 */
export class FrameScheduler {
  readonly #run: () => void;
  #frame: number | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(run: () => void) {
    this.#run = run;
  }

  /** Requests a call. */
  schedule(): void {
    if (this.#timer !== undefined) return;
    const frames = typeof requestAnimationFrame === 'function';
    if (frames) this.#frame = requestAnimationFrame(this.#fire);
    // The timer always runs too: a tab can become hidden between the request and the frame.
    this.#timer = setTimeout(this.#fire, frames ? NO_FRAME_MS : FALLBACK_MS);
  }

  /** Cancels a requested call. */
  cancel(): void {
    if (this.#frame !== undefined) cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#frame = undefined;
    this.#timer = undefined;
  }

  readonly #fire = (): void => {
    this.cancel();
    this.#run();
  };
}
