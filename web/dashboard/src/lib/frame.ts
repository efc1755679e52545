/** Longest wait for a frame: hidden tabs get no frames. */
const NO_FRAME_MS = 250;

/** Calls a function once in the next animation frame, however often it is requested. */
export class FrameScheduler {
  readonly #run: () => void;
  #frame = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(run: () => void) {
    this.#run = run;
  }

  /** Requests a call. */
  schedule(): void {
    if (this.#timer !== undefined) return;
    const frames = typeof requestAnimationFrame === 'function';
    if (frames) this.#frame = requestAnimationFrame(this.#fire);
    this.#timer = setTimeout(this.#fire, frames ? NO_FRAME_MS : 16);
  }

  /** Cancels a requested call. */
  cancel(): void {
    if (typeof cancelAnimationFrame === 'function') cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  readonly #fire = (): void => {
    this.cancel();
    this.#run();
  };
}
