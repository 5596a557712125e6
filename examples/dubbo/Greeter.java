/** The service. */
public interface Greeter {
    /** Answers after so many milliseconds. */
    String greet(String name, int ms);
}
